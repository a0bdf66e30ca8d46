"""Bricks: attention, masks, caches, rotary positions, norms and multi-layer perceptrons (rank 0)."""
