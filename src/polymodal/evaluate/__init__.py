"""Metrics (rank 6)."""
