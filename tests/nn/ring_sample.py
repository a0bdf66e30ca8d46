"""The decoder and the packed rows of the tests of ring attention: equal in every process."""

import torch
from torch import Tensor

from polymodal.backbones.decoder import Decoder
from polymodal.backbones.llama import LlamaShape

SHAPE = LlamaShape(width=32, depth=2, heads=4, kv_heads=2, ffn_width=48, vocab_size=20)


def decoder() -> Decoder:
    torch.manual_seed(0)
    return SHAPE.config().build()


def sample() -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [2, 24, 32], positions, segments: the second row holds two sequences and padding."""
    torch.manual_seed(1)
    segments = torch.tensor([[0] * 24, [0] * 9 + [1] * 11 + [2] * 4])
    return torch.randn(2, 24, 32), torch.arange(24).expand(2, -1), segments
