"""Texts, pictures, videos and sounds, made together from any mixture of them (CoDi, arXiv 2305.11846).

    input_ids, pixel_values, pixel_values_videos, input_features -> encoders -> vectors of unit length [B, 1, E]
        -> their mean by `mix` -> condition [B, 1, E]
    noisy_<output>, timesteps [B], condition -> generators -> predictions by output: the noise in each
    latents_<output>, noise_<output>, timesteps -> noisy -> mean squared errors of the noise              (loss)

Outputs are image [B, C, h, w], video [B, C, F, h, w], audio [B, C, t, f] and text [B, Z]; where there are several, each
U-Net looks at its environment vector.  Pictures and videos share a U-Net, an encoder and a codec.
Traps: conditions are averaged, not joined; all of them are one vector each; the codecs are parts of the checkpoint, but
no part of `forward`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.clip_frames import unit
from polymodal.errors import ConfigError
from polymodal.generators.composable_unet import ComposableUNet
from polymodal.generators.hifigan import HiFiGAN
from polymodal.generators.kl_codec import KLCodec
from polymodal.generators.noise_schedule import NoiseSchedule
from polymodal.models.output import Output

CONDITIONS = {"text": "input_ids", "image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}
"""By modality the tensor that its encoder reads."""
OUTPUTS = ("image", "video", "audio", "text")
SHARED = {"video": "image"}
"""Whose encoder, codec and U-Net a modality shares."""


class SoundCodec(nn.Module):
    """Log-mel spectrograms [N, 1, T, mels] to latents and back, and from there to samples [N, n]."""

    def __init__(self, mel: KLCodec, vocoder: HiFiGAN) -> None:
        super().__init__()
        self.mel, self.vocoder = mel, vocoder

    def samples(self, latents: Tensor) -> Tensor:
        """`[N, C, t, f] -> [N, n]` in -1..1; latents that ran away are cut, as the published code does."""
        if float(latents.abs().max()) > 100:
            latents = latents.clamp(-10, 10)
        return self.vocoder(self.mel.decode(latents)[:, 0].transpose(1, 2))


class JointDiffusion(nn.Module):
    """encoders, codecs: of text, image and audio; generators: of those that can be made."""

    output_fields = frozenset({"features", "predictions"})

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        generators: Mapping[str, ComposableUNet],
        codecs: Mapping[str, nn.Module],
        schedule: NoiseSchedule | None = None,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))
        self.generators = nn.ModuleDict(dict(generators))
        self.codecs = nn.ModuleDict(dict(codecs))
        self.schedule = schedule or NoiseSchedule()
        asked = {f"{kind}_{name}" for kind in ("noisy", "latents", "noise") for name in OUTPUTS}
        self._known = frozenset({*CONDITIONS.values(), *asked, "attention_mask", "timesteps", "mix"})

    @property
    def outputs(self) -> tuple[str, ...]:
        """What can be made."""
        return tuple(name for name in OUTPUTS if SHARED.get(name, name) in self.generators)

    def unet(self, output: str) -> ComposableUNet:
        """What sees the noise of an output.  Raises ConfigError for one that cannot be made."""
        if output not in self.outputs:
            raise ConfigError(f"JointDiffusion: makes {', '.join(self.outputs) or 'nothing'}, not {output!r}")
        found = self.generators[SHARED.get(output, output)]
        assert isinstance(found, ComposableUNet)
        return found

    def conditions(self, **batch: Any) -> dict[str, Tensor]:
        """By modality a vector of unit length [B, 1, E].  Raises ConfigError for an unknown input."""
        if unknown := sorted(name for name, value in batch.items() if value is not None and name not in self._known):
            raise ConfigError(f"JointDiffusion: does not know the input {unknown[0]!r}; it takes "
                              f"{', '.join(sorted(self._known))}")  # fmt: skip
        found = {}
        for modality, name in CONDITIONS.items():
            if batch.get(name) is not None:
                encoder: Any = self.encoders[SHARED.get(modality, modality)]
                found[modality] = unit(encoder.joint(batch[name]))[:, None]
        return found

    def mixed(self, conditions: Mapping[str, Tensor], mix: Mapping[str, float] | None = None) -> Tensor:
        """The mean of conditions [B, 1, E]; mix: the weight of each, 1 where it has none.  Raises ConfigError."""
        weights = {name: float((mix or {}).get(name, 1.0)) for name in conditions}
        total = sum(weights.values())
        if not conditions or not total > 0 or min(weights.values()) < 0:
            raise ConfigError(f"mix: expected one condition at least, and weights of 0 and more, found {weights}")
        return torch.stack([condition * (weights[name] / total) for name, condition in conditions.items()]).sum(0)

    def seen(self, noisy: Mapping[str, Tensor], timesteps: Tensor, condition: Tensor) -> dict[str, Tensor]:
        """The noise in each of the outputs, which are made together."""
        joint = len(noisy) > 1
        return {name: self.unet(name)(x, timesteps, condition, joint) for name, x in noisy.items()}

    def environments(self, noisy: Mapping[str, Tensor], timesteps: Tensor, condition: Tensor) -> dict[str, Tensor]:
        """The environment vector [B, E] of each output."""
        return {name: self.unet(name).surroundings(x, timesteps, condition) for name, x in noisy.items()}

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """The condition of each modality [B, 1, E]."""
        return self.conditions(**{name: value for name, value in batch.items() if name in CONDITIONS.values()})

    def noisy(self, latents: Mapping[str, Tensor], noise: Mapping[str, Tensor], timesteps: Tensor) -> dict[str, Tensor]:
        """Latents of each output with noise of a time."""
        return {name: self.schedule.noisy(x, noise[name], timesteps) for name, x in latents.items()}

    def forward(self, **batch: Any) -> Output:
        """See the module docstring.  Raises ConfigError where some of the tensors are missing."""
        found = self.conditions(**batch)
        times = batch.get("timesteps")
        noisy, latents, noise = (of(batch, kind) for kind in ("noisy", "latents", "noise"))
        if not (noisy or latents):
            return Output(features=found)
        if times is None or (noisy and latents) or set(latents) != set(noise):
            raise ConfigError("JointDiffusion: expected timesteps with noisy_<output>, or with latents_<output> and "
                              f"noise_<output>, found {', '.join(sorted(batch))}")  # fmt: skip
        condition = self.mixed(found, batch.get("mix"))
        if noisy:
            return Output(features=found, predictions=self.seen(noisy, times, condition))
        seen = self.seen(self.noisy(latents, noise, times), times, condition)
        errors = [F.mse_loss(seen[name].float(), noise[name].float()) for name in seen]
        loss = torch.stack(errors).mean()
        return Output(features=found, predictions=seen, loss=loss, losses={"noise": loss})


def of(batch: Mapping[str, Any], kind: str) -> dict[str, Tensor]:
    """By output the tensors of a kind: noisy, latents or noise."""
    return {name: batch[f"{kind}_{name}"] for name in OUTPUTS if batch.get(f"{kind}_{name}") is not None}
