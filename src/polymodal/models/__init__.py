"""Models: one nn.Module per file, assembled from encoders, connectors and backbones (rank 3)."""
