"""The shapes of model: one nn.Module a file, put together from the parts (rank 3)."""
