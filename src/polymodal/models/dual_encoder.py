"""Encoders of several modalities into one joint space, compared by cosine (CLIP, arXiv 2103.00020).

    pixel_values            -> encoders.image.joint -> [N, E] --+
    input_ids, attention_mask -> encoders.text.joint -> [B, E] --+-> unit length -> dot product * exp(logit_scale)

An encoder is any module with `joint(**its tensors) -> [N, E]`; which tensors of a batch are whose is said by `inputs`.
Traps: `features` are projected but NOT of unit length; `logits` are per item of the first modality, [N, B]; the scale
is stored as its logarithm, and has one dimension (sharding takes no scalars).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.losses import pair_loss

PAIR: Mapping[str, tuple[str, ...]] = {
    "image": ("pixel_values", "interpolate_pos_encoding"),
    "text": ("input_ids", "attention_mask", "position_ids"),
}
"""Tensors of a batch by modality, in the transformers library's names; the first of each must be there."""


class DualEncoder(nn.Module):
    """`encoders` by modality, `inputs` as in PAIR; both name the same modalities, the first two give the logits.

    scale: start of the temperature's logarithm; None: no temperature (one tower of a pair).  aliases: other names of
    tensors -> those in `inputs`.  Raises ConfigError for modalities that do not agree.
    """

    output_fields = frozenset({"logits", "embeddings"})

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        inputs: Mapping[str, tuple[str, ...]] = PAIR,
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
        """Joint vectors [N, E] of every modality that is in the batch, not of unit length.

        Raises PromptError when none is, ConfigError for a tensor that no encoder takes.
        """
        given = {self.aliases.get(name, name): value for name, value in batch.items() if value is not None}
        if unknown := set(given) - {name for names in self.inputs.values() for name in names}:
            raise ConfigError(f"DualEncoder: does not know the inputs {sorted(unknown)}")
        found = {}
        for modality, names in self.inputs.items():
            if names[0] in given:
                encoder: Any = self.encoders[modality]
                found[modality] = encoder.joint(**{name: given[name] for name in names if name in given})
        if not found:
            wanted = [names[0] for names in self.inputs.values()]
            raise PromptError(f"DualEncoder: expected one of {wanted}, found {sorted(given)}")
        return found

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """[N, E], [B, E] of any length -> scaled cosines [N, B]; not scaled without a temperature."""
        cosines = unit(first) @ unit(second).T
        return cosines if self.logit_scale is None else cosines * self.logit_scale.exp()

    def forward(self, *, return_loss: bool = False, **batch: Any) -> Output:
        """embeddings [N, E] of what is in the batch; logits [N, B], the scaled cosine of each item of the first
        modality with each of the second, where both are.  return_loss: the contrastive loss, pair i on the diagonal.

        Raises PromptError when a loss is asked for and one of the two is not there.
        """
        found = self.features(**batch)
        first, *others = self.inputs
        pair = [found[name] for name in (first, *others[:1]) if name in found]
        if len(pair) < 2:
            if return_loss:
                wanted = " and ".join(list(self.inputs)[:2])
                raise PromptError(f"DualEncoder: a loss needs {wanted}, found {list(found)}")
            return Output(embeddings=found)
        logits = self.similarity(pair[0], pair[1])
        if not return_loss:
            return Output(logits=logits, embeddings=found)
        loss = pair_loss(logits)
        return Output(logits=logits, embeddings=found, loss=loss, losses={"contrastive": loss})


def unit(x: Tensor) -> Tensor:
    """Vectors along the last axis, divided by their length."""
    return F.normalize(x, dim=-1)


def class_vectors(prompts: Sequence[Tensor]) -> Tensor:
    """Zero-shot classifier: per class the vectors [templates, E] of its prompts -> [classes, E] of unit length.

    As published: each prompt's vector to unit length, mean over the templates, unit length again.
    """
    return torch.stack([unit(unit(vectors).mean(0)) for vectors in prompts])
