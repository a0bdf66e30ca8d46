"""Dual encoders: several modalities in one joint space, compared by cosine similarity (CLIP, arXiv 2103.00020).

    pixel_values            -> encoders.image.joint -> [N, E] --+
    input_ids, attention_mask -> encoders.text.joint -> [B, E] --+-> L2 normalise -> dot product * exp(logit_scale)

An encoder is any module with `joint(**tensors) -> [N, E]`; `inputs` maps each modality to its tensors of the batch.
Traps: `features` are projected but NOT normalised; `logits` are per item of the first modality, [N, B]; the scale is
stored as its logarithm with shape [1] (FSDP does not support scalar parameters).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.losses import pair_loss

IMAGE_TEXT: Mapping[str, tuple[str, ...]] = {
    "image": ("pixel_values", "interpolate_pos_encoding"),
    "text": ("input_ids", "attention_mask", "position_ids"),
}
"""Tensors of a batch by modality, in transformers' names; the first of each is required."""


class DualEncoder(nn.Module):
    """`encoders` by modality, `inputs` as in IMAGE_TEXT, with the same modalities; the first two give the logits.

    scale: initial value of log(1 / temperature); None: no temperature (a single encoder of a pair).  aliases: other
    names of tensors -> those in `inputs`.  Raises ConfigError if the modalities differ.
    """

    output_fields = frozenset({"logits", "embeddings"})

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        inputs: Mapping[str, tuple[str, ...]] = IMAGE_TEXT,
        scale: float | None = 2.6592,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        if set(encoders) != set(inputs):
            raise ConfigError(
                f"DualEncoder: encoders {sorted(encoders)} and inputs {sorted(inputs)} must name the same modalities"
            )
        self.encoders = nn.ModuleDict(encoders)
        self.logit_scale = None if scale is None else nn.Parameter(torch.tensor([scale]))
        self.inputs = {name: tuple(inputs[name]) for name in encoders}
        self.aliases = dict(aliases or {})

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Projected vectors [N, E] of every modality in the batch, not normalised.

        Raises PromptError if there is none, ConfigError for a tensor that no encoder takes.
        """
        tensors = {self.aliases.get(name, name): value for name, value in batch.items() if value is not None}
        if unknown := set(tensors) - {name for names in self.inputs.values() for name in names}:
            raise ConfigError(f"DualEncoder: does not know the inputs {sorted(unknown)}")
        embeddings = {}
        for modality, names in self.inputs.items():
            if names[0] in tensors:
                encoder: Any = self.encoders[modality]
                embeddings[modality] = encoder.joint(**{name: tensors[name] for name in names if name in tensors})
        if not embeddings:
            expected = [names[0] for names in self.inputs.values()]
            raise PromptError(f"DualEncoder: expected one of {expected}, found {sorted(tensors)}")
        return embeddings

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """[N, E], [B, E], normalised or not -> cosine similarities [N, B], scaled if there is a temperature."""
        cosines = l2_normalise(first) @ l2_normalise(second).T
        return cosines if self.logit_scale is None else cosines * self.logit_scale.exp()

    def forward(self, *, return_loss: bool = False, **batch: Any) -> Output:
        """embeddings [N, E] by modality; with both modalities, logits [N, B], the scaled cosine similarities.

        return_loss: the contrastive loss; pair i is on the diagonal.  Raises PromptError if a loss is requested and one
        of the two modalities is missing.
        """
        embeddings = self.features(**batch)
        pair = [embeddings[name] for name in list(self.inputs)[:2] if name in embeddings]
        if len(pair) < 2:
            if return_loss:
                expected = " and ".join(list(self.inputs)[:2])
                raise PromptError(f"DualEncoder: a loss needs {expected}, found {list(embeddings)}")
            return Output(embeddings=embeddings)
        logits = self.similarity(pair[0], pair[1])
        if not return_loss:
            return Output(logits=logits, embeddings=embeddings)
        loss = pair_loss(logits)
        return Output(logits=logits, embeddings=embeddings, loss=loss, losses={"contrastive": loss})


def l2_normalise(x: Tensor) -> Tensor:
    """Vectors along the last axis, scaled to unit length."""
    return F.normalize(x, dim=-1)


def class_vectors(prompts: Sequence[Tensor]) -> Tensor:
    """Zero-shot classifier: the vectors [templates, E] of the prompts of each class -> unit vectors [classes, E].

    As published: normalise each prompt vector, average over the templates, normalise again.
    """
    return torch.stack([l2_normalise(l2_normalise(vectors).mean(0)) for vectors in prompts])
