"""How a modality enters the backbone (rank 2)."""
