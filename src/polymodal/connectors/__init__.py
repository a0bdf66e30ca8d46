"""Input and output projectors between an encoder's width and a backbone's (rank 2)."""
