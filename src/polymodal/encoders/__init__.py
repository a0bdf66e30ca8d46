"""Signal to features: pictures and sound (rank 2)."""
