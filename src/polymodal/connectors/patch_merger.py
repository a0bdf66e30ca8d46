"""The connector of Qwen2-VL (arXiv 2409.12191): merges m x m neighbouring patches into one token with an MLP.

Flow
    features of one item [S, Din] -> norm -> concatenate each m*m -> [S / (m*m), m*m*Din] -> layers.0 -> GELU
    -> layers.1

Traps: m*m consecutive features are one merge block, so the patch order of the encoder matters; the GELU is exact; the
hidden width is m*m*Din.
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
    """`merge`: side m of the square of patches that becomes one token."""

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
        merged = in_width * config.merge**2
        self.norm = config.norm.build(in_width)
        self.layers = nn.ModuleList((LinearConfig().build(merged, merged, True),))
        self.layers.append(LinearConfig().build(merged, out_width, True))
        self.act = activation(config.activation)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One float tensor [S, Din] per item, S a multiple of m*m -> one [S / (m*m), Dout] per item."""
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
