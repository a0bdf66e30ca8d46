"""Lines that tell several modalities of one thing -> batches of a masked model of many modalities (4M).

    {"modalities": {"rgb@224": {"image": "a.jpg"}, "tok_depth@224": {"array": "depth.npy"}, "caption": "two cats",
                    "det": [{"label": "cat", "box": [0.1, 0.2, 0.6, 0.9]}]}}

Ids of grids come from the modality's codec beforehand, [h, w] or flat; vectors are [L, E]; a sequence is words, ids, or
what its words stand for (boxes, facts, colours).  A line may lack modalities: nothing of them is given or asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Array
from polymodal.encoders.modality_embeddings import ModalityConfig
from polymodal.errors import PromptError
from polymodal.pipelines.modality_turning import Turner
from polymodal.train.collator import Collator, MicroBatch, WrongKind
from polymodal.train.modality_masking import MaskedModalityModeling, ModalityMasking

Modalities = dict[str, Any]
"""Of one sample: pixels [3, H, W], ids [L], ids in chunks, or vectors [L, E]."""


@dataclass(frozen=True, kw_only=True)
class ModalityCollator(Collator):
    """turner: the model with what reads words and pictures.  masking: what is hidden of a sample."""

    expects: ClassVar[str] = "lines of modalities"

    turner: Turner
    masking: ModalityMasking

    def item(self, sample: Sample) -> Modalities:
        """What the stage learns of a sample; what the model knows and the stage does not is left out.

        Raises WrongKind for another kind of line, PromptError for a modality that the model does not have and for
        values that do not fit theirs.
        """
        if not sample.modalities:
            raise WrongKind("has no modalities")
        known = dict.fromkeys((*self.turner.reads, *self.turner.writes))
        if unknown := [name for name in sample.modalities if name not in known]:
            raise PromptError(f"has the modality {unknown[0]!r}; the model has {', '.join(known)}")
        names = [name for name in self.masking.modalities if name in sample.modalities]
        if not names:
            raise PromptError(
                f"has none of the modalities that this stage learns: {', '.join(self.masking.modalities)}"
            )
        return {name: self.value(name, sample.modalities[name]) for name in names}

    def value(self, name: str, given: Any) -> Any:
        """One modality of one sample."""
        config = self.masking.modalities[name]
        if config.kind == "sequence":
            pieces = self.turner.pieces(name, given.values.tolist() if isinstance(given, Array) else given)
            most = config.vocab_size
            if not all(0 <= token < most for piece in pieces for token in piece):
                raise PromptError(f"{name}: ids lie in 0 .. {most - 1}")
            return pieces
        if config.kind == "pixels":
            return self.turner.tensor(name, given)[0]
        return numbers(name, given, config)

    def drawn(self, sample: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        """What is given and asked for of a sample."""
        return self.masking(self.item(sample), generator)

    def batch(self, items: Sequence[Mapping[str, Tensor]], generator: torch.Generator) -> MicroBatch:
        """`<name>.tensor` with its masks, of every modality that the stage learns."""
        names = self.masking.modalities
        nothing = {field: value for name in names for field, value in self.masking.blank(name).items()}
        masked = [{**nothing, **item} for item in items]
        batch: dict[str, Any] = {name: torch.stack([row[name] for row in masked]) for name in nothing}
        real = sum(int((~batch[name]).sum()) for name in nothing if name.endswith("_mask"))
        objective, written = self.masking.objective, self.turner.model.config.outputs
        counts = {name: learned(names[name], ~batch[f"{name}.target_mask"]) for name in names if name in written}
        most = {"num_encoder_tokens": objective.given[1], "num_decoder_tokens": objective.asked[1]}
        return MicroBatch(batch={**batch, **most}, targets=len(items), tokens=real, counts=counts)


def learned(config: ModalityConfig, asked: Tensor) -> int:
    """Tokens that a loss is the mean of; of a sequence those that stand behind another that is asked for."""
    return int((asked[:, 1:] & asked[:, :-1] if config.is_sequence else asked).sum())


def numbers(name: str, given: Any, config: ModalityConfig) -> Tensor:
    """Ids of a grid, flat, or vectors [L, E].  Raises PromptError for what does not fit the modality."""
    values = torch.from_numpy(np.array(given.values if isinstance(given, Array) else read_list(name, given)))
    found = f"{list(values.shape)} {str(values.dtype).removeprefix('torch.')}"
    if config.kind == "vectors":
        if values.dim() != 2 or values.shape[1] != config.channels:
            raise PromptError(f"{name}: expected vectors [L, {config.channels}], found {found}")
        return values.float()
    if values.is_floating_point() or tuple(values.shape) not in (config.grid, (config.places,)):
        raise PromptError(f"{name}: expected ids {list(config.grid)} as whole numbers, found {found}")
    if int(values.min()) < 0 or int(values.max()) >= config.vocab_size:
        raise PromptError(
            f"{name}: ids lie in 0 .. {config.vocab_size - 1}, found {int(values.min())} .. {int(values.max())}"
        )
    return values.flatten().long()


def read_list(name: str, given: Any) -> np.ndarray:
    """Numbers that stand in the line itself.  Raises PromptError for anything else."""
    if not isinstance(given, list):
        raise PromptError(f"{name}: expected numbers or the name of a .npy file, found {type(given).__name__.lower()}")
    return Array(given).values


def modality_collator(objective: Any, turner: Turner, longest: Mapping[str, int]) -> ModalityCollator | None:
    """Of a model of many modalities; None for another objective.  longest: see `MaskedModalityModeling.masking`."""
    if not isinstance(objective, MaskedModalityModeling):
        return None
    masking = objective.masking(turner.model, turner.ids, longest)
    return ModalityCollator(turner=turner, masking=masking)
