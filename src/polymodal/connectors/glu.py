"""The connector of CogVLM (arXiv 2311.03079) and CogAgent: a gated MLP, with learned begin and end embeddings around
the image.

Flow
    features [N, S, Din] (+ positions) -> proj -> norm -> GELU -> gated MLP (SiLU) -> [begin, S, end] [N, S + 2, Dout]

Trap: begin and end are features, not tokens of the vocabulary, so an image needs two more placeholders than patches.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.connectors.added_positions import AddedPositionsConfig
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Reshape


@dataclass(frozen=True, kw_only=True)
class GLUConnectorConfig:
    """`ffn_width`: of the gated MLP; `markers`: add a learned vector before and after every item;
    `positions`: features of an item, where each has a learned position that is added first (CogAgent)."""

    ffn_width: int
    norm: NormConfig = field(default_factory=LayerNormConfig)
    markers: bool = True
    positions: int | None = None

    def build(self, in_width: int, out_width: int) -> "GLUConnector":
        """Build the connector with fresh weights."""
        return GLUConnector(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` features in."""
        return n_in + 2 * self.markers


class GLUConnector(nn.Module):
    """`[N, S, Din] -> [N, S (+ 2), Dout]`"""

    def __init__(self, config: GLUConnectorConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        count = config.positions
        self.positions = None if count is None else AddedPositionsConfig(count=count).build(in_width)
        self.proj = LinearConfig().build(in_width, out_width)
        self.norm = config.norm.build(out_width)
        self.mlp = GatedMLPConfig(width=out_width, ffn_width=config.ffn_width).build()
        self.begin = nn.Parameter(torch.zeros(out_width)) if config.markers else None
        self.end = nn.Parameter(torch.zeros(out_width)) if config.markers else None

    def forward(self, features: Tensor) -> Tensor:
        """Map float [N, S, Din] to [N, S + 2, Dout], or to [N, S, Dout] without markers."""
        if self.positions is not None:
            features = self.positions(features)
        x = self.mlp(F.gelu(self.norm(self.proj(features))))
        if self.begin is None or self.end is None:
            return x
        begin, end = (marker.expand(x.shape[0], 1, -1) for marker in (self.begin, self.end))
        return torch.cat((begin, x, end), dim=1)


def cogvlm_keys(out_width: int) -> KeyTable:
    """CogVLM's names (under `model.vision.`) -> ours."""
    flat = Reshape((1, 1, out_width), (out_width,))
    return KeyTable(
        (
            rename("linear_proj.linear_proj.weight", "proj.weight"),
            rename("linear_proj.norm1.weight", "norm.weight"),
            rename("linear_proj.norm1.bias", "norm.bias"),
            rename("linear_proj.gate_proj.weight", "mlp.gate_proj.weight"),
            rename("linear_proj.dense_h_to_4h.weight", "mlp.up_proj.weight"),
            rename("linear_proj.dense_4h_to_h.weight", "mlp.down_proj.weight"),
            rename("boi", "begin", flat),
            rename("eoi", "end", flat),
        )
    )
