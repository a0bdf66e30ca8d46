"""Text to pictures: a language model reads the words, a U-Net sees the noise in latents (Stable Diffusion's scheme).

    input_ids [B, T] -> backbone -> hidden [B, T, D] -> connectors.text -> condition [B, T, E]
    noisy_latents [B, C, h, w], timesteps [B], condition -> generators.image -> the noise in them
    latents, noise, timesteps -> noisy_latents -> mean squared error of the noise                    (loss)

The codec between latents and pictures is no part of it; `pipelines/latent_painting.py` draws with both.
Trap: every column of the condition counts, padding too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.errors import ConfigError
from polymodal.generators.noise_schedule import NoiseSchedule
from polymodal.generators.unet import UNet
from polymodal.models.output import Output
from polymodal.nn.mask import MaskSpec, position_ids_from_mask

DIFFUSION = ("noisy_latents", "timesteps", "latents", "noise")


class LatentDiffusion(nn.Module):
    """context: a module, batch -> the backbone's `context`.  rewrite: official tensors -> ours."""

    output_fields = frozenset({"hidden", "features"})

    def __init__(
        self,
        backbone: Decoder,
        context: nn.Module,
        connector: nn.Module,
        unet: UNet,
        schedule: NoiseSchedule,
        rewrite: Callable[[Mapping[str, Any]], dict[str, Any]],
        input_names: frozenset[str],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.context = context
        self.connectors = nn.ModuleDict({"text": connector})
        self.generators = nn.ModuleDict({"image": unet})
        self.schedule = schedule
        self._rewrite = rewrite
        # A processor's batch also has what only a model that writes or sees needs.
        other = {"labels", "token_types", "position_ids", "item_counts", "item_tokens", "token_type_counts"}
        self._known = frozenset({"input_ids", "attention_mask", *DIFFUSION}) | input_names | other

    @property
    def unet(self) -> UNet:
        """What sees the noise."""
        found = self.generators["image"]
        assert isinstance(found, UNet)
        return found

    def condition(self, **batch: Any) -> Tensor:
        """What the U-Net looks at [B, T, E].  Raises ConfigError for an unknown input."""
        if unknown := sorted(name for name, value in batch.items() if value is not None and name not in self._known):
            raise ConfigError(f"LatentDiffusion: does not know the input {unknown[0]!r}; it takes "
                              f"{', '.join(sorted(self._known))}")  # fmt: skip
        batch = self._rewrite(batch)
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        positions = position_ids_from_mask(ids.new_ones(ids.shape) if mask is None else mask)
        hidden = self.backbone(
            self.backbone.embed(ids), positions, MaskSpec(attention_mask=mask), context=self.context({}, batch)
        )
        return self.connectors["text"](hidden)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """`text`: the condition [B, T, E]; `image`: the noise that is seen in `noisy_latents`, if there are any."""
        output = self(**batch)
        return dict(output.features or {})

    def forward(self, **batch: Any) -> Output:
        """See `features`; with `latents`, `noise` and `timesteps` the loss.

        Raises ConfigError where some of them are missing.
        """
        condition = self.condition(**batch)
        noisy, times, latents, noise = (batch.get(name) for name in DIFFUSION)
        features = {"text": condition}
        if latents is not None and noise is not None and times is not None and noisy is None:
            noisy = self.schedule.noisy(latents, noise, times)
            features["image"] = self.unet(noisy, times, condition)
            loss = F.mse_loss(features["image"].float(), noise.float())
            return Output(hidden=condition, features=features, loss=loss, losses={"noise": loss})
        if noisy is not None and times is not None and latents is None and noise is None:
            features["image"] = self.unet(noisy, times, condition)
        elif found := [name for name in DIFFUSION if batch.get(name) is not None]:
            raise ConfigError("LatentDiffusion: expected noisy_latents and timesteps, or latents, noise and timesteps; "
                              f"found {', '.join(found)}")  # fmt: skip
        return Output(hidden=condition, features=features)
