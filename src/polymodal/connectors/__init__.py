"""Connectors: map encoder features to the width of a backbone, often to fewer tokens (rank 2)."""
