"""Encoders of many modalities into one space that was bound to images (ImageBind, arXiv 2305.05665).

    vision, text, audio, depth, thermal, imu -> encoders.<modality> -> [N, E], unit length times a fixed scale
    logits: dot products of two modalities of a batch

Traps: vectors of modalities other than images carry their scale, so that a softmax over dot products is calibrated;
their cosine needs another division.  The mean over clips is not of unit length.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.losses import pair_loss


class JointEmbedding(nn.Module):
    """`encoders` by the name of the tensor they take: modules of values -> [N, E]."""

    output_fields = frozenset({"logits", "embeddings"})

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

    def forward(self, *, return_loss: bool = False, **batch: Any) -> Output:
        """embeddings by modality; with two modalities logits [N, B], their dot products in the order of the encoders.

        return_loss: their contrastive loss, pair i on the diagonal.  Raises PromptError for another number of them.
        """
        found = self.features(**batch)
        if len(found) != 2:
            if return_loss:
                raise PromptError(f"a loss compares two modalities; found {', '.join(found)}")
            return Output(embeddings=found)
        first, second = found.values()
        logits = first @ second.T
        if not return_loss:
            return Output(logits=logits, embeddings=found)
        # Cosines over 0.07: the vectors' own scale differs between the modalities and is not learned in all of them.
        loss = pair_loss(F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / 0.07)
        return Output(logits=logits, embeddings=found, loss=loss, losses={"contrastive": loss})
