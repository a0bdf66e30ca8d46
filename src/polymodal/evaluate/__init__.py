"""Metrics, measurements and the runner (rank 5)."""
