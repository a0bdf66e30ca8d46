"""Encoders of many modalities with one joint space (ImageBind, arXiv 2305.05665).

    vision, text, audio, depth, thermal, imu -> encoders.<modality> -> [N, E], unit vectors times a fixed scale
    logits: dot products of two modalities of a batch

Traps: vectors of modalities other than images include a scale, so that a softmax over dot products is calibrated; for
cosine similarity they must be normalised again.  The mean over clips does not have unit length.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.losses import pair_loss


class JointEmbedding(nn.Module):
    """`encoders` by the name of their input tensor: modules of values -> [N, E]."""

    output_fields = frozenset({"logits", "embeddings"})

    def __init__(self, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Vectors [N, E] of every modality in the batch, scaled as published.

        Raises ConfigError for a tensor that no encoder takes, PromptError if there is none.
        """
        tensors = {name: value for name, value in batch.items() if value is not None}
        if unknown := set(tensors) - set(self.encoders):
            raise ConfigError(f"this model takes {', '.join(self.encoders)}; found {sorted(unknown)}")
        if not tensors:
            raise PromptError(f"this model takes one or more of {', '.join(self.encoders)}; found none")
        return {name: self.encoders[name](tensors[name]) for name in self.encoders if name in tensors}

    def forward(self, *, return_loss: bool = False, **batch: Any) -> Output:
        """embeddings by modality; with two modalities, logits [N, B], their dot products in the order of the encoders.

        return_loss: contrastive loss; pair i is on the diagonal.  Raises PromptError unless there are two modalities.
        """
        embeddings = self.features(**batch)
        if len(embeddings) != 2:
            if return_loss:
                raise PromptError(f"a loss needs two modalities; found {', '.join(embeddings)}")
            return Output(embeddings=embeddings)
        first, second = embeddings.values()
        logits = first @ second.T
        if not return_loss:
            return Output(logits=logits, embeddings=embeddings)
        # Cosines over 0.07: the scales differ between modalities and only some of them are learned.
        loss = pair_loss(F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / 0.07)
        return Output(logits=logits, embeddings=embeddings, loss=loss, losses={"contrastive": loss})
