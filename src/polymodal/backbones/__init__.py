"""The transformers that fuse and reason, with their published sizes and key tables (rank 2)."""
