"""The few shapes of model that join parts, and sampling (rank 4)."""
