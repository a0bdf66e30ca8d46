"""BEiT v2's pretraining (arXiv 2208.06366): masked patches twice, the second time from what the class token knows.

    picture, some patches hidden -> BEiT -> norm -> linear -> codes of patches [N, P, V]
    patches after block `early` + the LAST class token -> `extra` blocks -> the same norm and linear -> codes again
Patches of an early block know little of the rest, so the second loss makes the class token carry it.
Trap: the extra blocks share the bias table of the rest; they are dropped after pretraining.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.encoders.beit import BeitBlockConfig, BeitConfig
from polymodal.errors import ConfigError
from polymodal.models.output import Output, total_loss
from polymodal.nn.losses import masked_token_loss
from polymodal.nn.norm import NormConfig

_INPUTS = ("pixel_values", "bool_masked_pos")


@dataclass(frozen=True, kw_only=True)
class ClassTokenPretrainingConfig:
    """tower: without a final norm.  early: blocks that patches of the second branch have passed."""

    tower: BeitConfig
    extra: tuple[BeitBlockConfig, ...]
    early: int
    codes: int
    norm: NormConfig

    def __post_init__(self) -> None:
        if not 0 < self.early <= len(self.tower.blocks):
            raise ConfigError(f"beit-v2: early_layers must be 1 to {len(self.tower.blocks)}, found {self.early}")

    def build(self) -> "ClassTokenPretraining":
        return ClassTokenPretraining(self)


class ClassTokenPretraining(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "hidden", "features", "predictions"})

    def __init__(self, config: ClassTokenPretrainingConfig):
        super().__init__()
        self.config = config
        self.image = config.tower.build()
        self.extra = nn.ModuleList(block.build() for block in config.extra)
        self.norm = config.norm.build(config.tower.width)
        self.head = nn.Linear(config.tower.width, config.codes)

    def states(self, **batch: Any) -> tuple[Tensor, Tensor]:
        """States of both branches after the norm, [N, 1 + P, D] each."""
        given = {name: value for name, value in batch.items() if value is not None}
        if unknown := sorted(set(given) - set(_INPUTS)):
            raise ConfigError(f"beit-v2: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
        if "pixel_values" not in given:
            raise ConfigError("beit-v2: expected pixel_values, found none")
        x, grid, shared = self.image.start(given["pixel_values"], given.get("bool_masked_pos"))
        early = x
        for i, block in enumerate(self.image.blocks, start=1):
            x = block(x, grid, shared)
            early = x if i == self.config.early else early
        second = torch.cat((x[:, :1], early[:, 1:]), 1)
        for block in self.extra:
            second = block(second, grid, shared)
        return self.norm(x), self.norm(second)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """States after the norm, class token first."""
        return {"image": self.states(**batch)[0]}

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits [N, P, codes]; predictions: "class_token", those of the second branch.

        labels [N, P]: codes of hidden patches, -100 elsewhere; the loss is of both branches.
        """
        found = self.states(**batch)
        logits, second = (self.head(each[:, 1:]) for each in found)
        losses = None
        if labels is not None:
            losses = {"masked_patches": masked_token_loss(logits, labels),
                      "class_token": masked_token_loss(second, labels)}  # fmt: skip
        return Output(
            logits=logits, hidden=found[0], features={"image": found[0]}, predictions={"class_token": second},
            loss=None if losses is None else total_loss(losses), losses=losses,
        )  # fmt: skip
