"""MiniGPT-5's mapper: states of vokens (signal tokens) -> what a text encoder of Stable Diffusion would say.

    states [k, n, D] -> linear, GELU, linear [k, n, W] -> encoder blocks, norm
    a learned prompt [Q, W] -> decoder blocks that look at them, norm -> conditions [k, Q, W]

Paper: arXiv 2310.02239.  Traps: embeddings of the tokens are not added; torch's `nn.Transformer`, pre-norm with ReLU,
whose halves each end in a norm; the prompt itself is the decoder's input, and its output needs no further linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.generators.query_projector import ProjectorBlock, QueryProjectorConfig, transformer_keys
from polymodal.nn.norm import LayerNorm
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Squeeze


@dataclass(frozen=True, kw_only=True)
class VokenMapperConfig:
    """in_width: of the backbone; queries, width: of the text encoder that it stands for."""

    in_width: int
    width: int
    queries: int = 77
    depth: int = 4
    heads: int = 8

    def build(self) -> VokenMapper:
        return VokenMapper(self)


class VokenMapper(nn.Module):
    """See the module docstring."""

    def __init__(self, config: VokenMapperConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        blocks = QueryProjectorConfig(in_width=width, out_width=width, width=width, depth=config.depth,
                                      heads=config.heads, ffn_width=4 * width)  # fmt: skip
        self.inlet = nn.Sequential(nn.Linear(config.in_width, width), nn.GELU(), nn.Linear(width, width))
        self.encoder = nn.ModuleList(ProjectorBlock(blocks, cross=False) for _ in range(config.depth))
        self.encoder_norm = LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(config.queries, width))
        self.decoder = nn.ModuleList(ProjectorBlock(blocks, cross=True) for _ in range(config.depth))
        self.decoder_norm = LayerNorm(width)

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """`[k, n, D] -> [k, Q, W]`; embeddings are not looked at."""
        source = self.inlet(states)
        for block in self.encoder:
            source = block(source)
        source = self.encoder_norm(source)
        x = self.queries.expand(len(states), -1, -1)
        for block in self.decoder:
            x = block(x, source)
        return self.decoder_norm(x)


def official_keys() -> KeyTable:
    """`fc`, `llm_to_t2i_mapping`, `t2i_decoder_prompt` -> ours."""
    rows = [rename(f"fc.{index}.{leaf}", f"inlet.{index}.{leaf}") for index in (0, 2) for leaf in ("weight", "bias")]
    rows.append(rename("t2i_decoder_prompt", "queries", Squeeze(0)))
    return KeyTable(tuple(rows)) + transformer_keys("llm_to_t2i_mapping")
