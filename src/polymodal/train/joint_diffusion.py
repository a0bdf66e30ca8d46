"""What Composable Diffusion learns (CoDi, arXiv 2305.11846): one output, the bridge between prompts, outputs together.

    ComposedDenoising    conditions and latents of one output -> the noise in them
    BridgingAlignment    pairs of a text with a sound or a video -> vectors of a pair near, of others apart
    LatentAlignment      latents of several outputs -> the noise in each, with environment vectors; those of one sample
                         near, of others apart

Traps: the published code has no contrastive losses, and the paper no temperature: CLIP's first one is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.joint_diffusion import JointDiffusion, of
from polymodal.nn.losses import contrastive_loss
from polymodal.train.objectives import Batch, Loss, Losses

TEMPERATURE = 0.07


def near(left: Tensor, right: Tensor, temperature: float) -> Tensor:
    """InfoNCE both ways of unit vectors [B, E], a pair in each row."""
    return contrastive_loss(left.float(), right.float(), temperature, torch.arange(len(left), device=left.device))


def composer(model: nn.Module) -> JointDiffusion:
    """Raises ConfigError for another model."""
    if not isinstance(model, JointDiffusion):
        raise ConfigError(f"objective: several outputs are made by a JointDiffusion, not by a {type(model).__name__}")
    return model


def drawn(batch: Batch, model: JointDiffusion, outputs: tuple[str, ...]) -> dict[str, Any]:
    """The batch with noise and timesteps.  Raises ConfigError where it lacks latents of an output."""
    latents = of(batch, "latents")
    if missing := sorted(set(outputs) - set(latents)):
        raise ConfigError(f"objective: the batch needs latents_{missing[0]}, as its codec encodes them")
    first = next(iter(latents.values()))
    times = torch.randint(model.schedule.trained, (len(first),), device=first.device)
    noise = {f"noise_{name}": torch.randn_like(x) for name, x in latents.items()}
    return {**noise, "timesteps": times, **batch}


class Denoises(Loss):
    """outputs: which the batch must hold.  temperature: of the environment vectors, None: they are not compared."""

    def __init__(self, outputs: tuple[str, ...], temperature: float | None, trained: int) -> None:
        super().__init__()
        self.outputs, self.temperature, self.trained = outputs, temperature, trained

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        whole = drawn(batch, composer(model), self.outputs)
        losses: Losses = dict(model(**whole).losses)
        if self.temperature is not None:
            losses["environment"] = self.compared(composer(model), whole)
        return losses

    def compared(self, model: JointDiffusion, batch: Batch) -> Tensor:
        """Environment vectors of every two outputs."""
        times, found = batch["timesteps"], of(batch, "latents")
        condition = model.mixed(model.features(**batch), batch.get("mix"))
        vectors = list(model.environments(model.noisy(found, of(batch, "noise"), times), times, condition).values())
        pairs = [(a, b) for index, a in enumerate(vectors) for b in vectors[index + 1 :]]
        assert self.temperature is not None
        return torch.stack([near(a, b, self.temperature) for a, b in pairs]).mean()


@dataclass(frozen=True, kw_only=True)
class ComposedDenoising:
    """Batch: conditions, and `latents_<makes>`; `noise_<makes>` and `timesteps` [B], drawn where a batch has none."""

    name: ClassVar[str] = "composed_denoising"
    makes: str

    def build(self, model: nn.Module) -> Loss:
        return Denoises((self.makes,), None, composer(model).schedule.trained)


@dataclass(frozen=True, kw_only=True)
class LatentAlignment:
    """Batch: as of ComposedDenoising, with latents of all of `makes`."""

    name: ClassVar[str] = "latent_alignment"
    makes: tuple[str, ...]
    temperature: float = TEMPERATURE

    def build(self, model: nn.Module) -> Loss:
        if len(self.makes) < 2:
            raise ConfigError(f"objective: several outputs are aligned, found {', '.join(self.makes)}")
        return Denoises(self.makes, self.temperature, composer(model).schedule.trained)


@dataclass(frozen=True, kw_only=True)
class BridgingAlignment:
    """Batch: `input_ids`, and the tensor of `modality`, row by row of the same thing."""

    name: ClassVar[str] = "bridging_alignment"
    modality: str
    temperature: float = TEMPERATURE

    def build(self, model: nn.Module) -> Loss:
        composer(model)
        return Bridges(self.modality, self.temperature)


class Bridges(Loss):
    """See BridgingAlignment."""

    def __init__(self, modality: str, temperature: float) -> None:
        super().__init__()
        self.modality, self.temperature = modality, temperature

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        found: Mapping[str, Tensor] = model(**batch).features
        for name in ("text", self.modality):
            if name not in found:
                raise ConfigError(f"objective: the batch has no {name}; pairs of text and {self.modality} are learned")
        return {"bridge": near(found["text"][:, 0], found[self.modality][:, 0], self.temperature)}
