"""Where checkpoints come from, how they are read, and the two-way key tables that rename them (rank 1)."""
