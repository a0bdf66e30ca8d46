"""Stages, recipes, objectives, the loop and its checkpoints (rank 5)."""
