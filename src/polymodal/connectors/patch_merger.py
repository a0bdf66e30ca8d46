"""The connector of Qwen2-VL (arXiv 2409.12191): neighbouring patches become one token through two linears.

Flow
    features of one item [S, Din] -> norm -> runs of m*m -> [S / (m*m), m*m*Din] -> layers.0 -> GELU -> layers.1

Traps: the runs are the encoder's merge blocks, so the encoder's order of patches matters; the GELU is exact; the
hidden layer is as wide as the joined patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from polymodal.nn.activation import activation
from polymodal.nn.linear import LinearConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable, rename


@dataclass(frozen=True, kw_only=True)
class PatchMergerConfig:
    """`merge`: side of the square of patches that becomes one token."""

    merge: int = 2
    activation: str = "gelu"
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-6))

    def build(self, in_width: int, out_width: int) -> "PatchMerger":
        """Build the connector with fresh weights."""
        return PatchMerger(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` patches in."""
        return n_in // self.merge**2


class PatchMerger(nn.Module):
    """A list of `[S, Din]` -> a list of `[S / (m*m), Dout]`."""

    def __init__(self, config: PatchMergerConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        joined = in_width * config.merge**2
        self.norm = config.norm.build(in_width)
        self.layers = nn.ModuleList((LinearConfig().build(joined, joined, True),))
        self.layers.append(LinearConfig().build(joined, out_width, True))
        self.act = activation(config.activation)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One float tensor [S, Din] for each item, S a multiple of m*m -> one [S / (m*m), Dout] for each."""
        lengths = [self.config.tokens(len(item)) for item in features]
        x = self.norm(torch.cat(list(features))).reshape(sum(lengths), -1)
        x = self.layers[1](self.act(self.layers[0](x)))
        return list(x.split(lengths))


HF_KEYS = KeyTable(
    tuple(
        rename(f"{source}.{leaf}", f"{target}.{leaf}")
        for source, target in (("ln_q", "norm"), ("mlp.0", "layers.0"), ("mlp.2", "layers.1"))
        for leaf in ("weight", "bias")
    )
)
"""Published names (without the prefix `visual.merger.`) -> ours."""
