"""The catalogue: one file per system (rank 6)."""
