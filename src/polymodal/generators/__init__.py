"""Features or ids to signals (rank 3)."""
