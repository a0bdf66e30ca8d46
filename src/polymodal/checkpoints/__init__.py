"""Published checkpoint formats: their records, and formats that two or more systems share (rank 6)."""
