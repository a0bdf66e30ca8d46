"""Building blocks: attention, masks, KV caches, rotary embeddings, norms, MLPs, losses (rank 0)."""
