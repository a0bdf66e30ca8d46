"""Reading media, transforms, tokenizers, templates and the processor (rank 1)."""
