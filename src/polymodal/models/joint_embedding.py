"""Encoders of many modalities into one space that was bound to images (ImageBind, arXiv 2305.05665).

    vision, text, audio, depth, thermal, imu -> encoders.<modality> -> [N, E], unit length times a fixed scale
    logits: dot products of two modalities of a batch

Traps: vectors of modalities other than images carry their scale, so that a softmax over dot products is calibrated;
their cosine needs another division.  The mean over clips is not of unit length.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError


class JointEmbedding(nn.Module):
    """`encoders` by the name of the tensor they take: modules of values -> [N, E]."""

    def __init__(self, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Vectors [N, E] of every modality in the batch, scaled as published.

        Raises ConfigError for a tensor no encoder takes, PromptError when there is none.
        """
        given = {name: value for name, value in batch.items() if value is not None}
        if unknown := set(given) - set(self.encoders):
            raise ConfigError(f"this model takes {', '.join(self.encoders)}; found {sorted(unknown)}")
        if not given:
            raise PromptError(f"this model takes one or more of {', '.join(self.encoders)}; found none")
        return {name: self.encoders[name](given[name]) for name in self.encoders if name in given}

    def logits(self, **batch: Any) -> Tensor:
        """[N, B]: dot products of the two modalities of a batch, in the order of the encoders.

        Raises PromptError for another number of modalities.
        """
        found = self.features(**batch)
        if len(found) != 2:
            raise PromptError(f"logits compare two modalities; found {', '.join(found)}")
        first, second = found.values()
        return first @ second.T

    def forward(self, **batch: Any) -> Tensor:
        """The same as `logits`."""
        return self.logits(**batch)
