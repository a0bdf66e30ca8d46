"""From words to pictures through noise: latents of noise, cleaned step by step, away from another text, then decoded.

    wish, negative text -> conditions -> for each timestep: noise seen with both -> guided -> a little less noise
    -> latents -> codec -> pixels

Traps: the wish and the negative text are padded to one length, since the model looks at the padding; every picture has
random numbers of its own, so that it is the same however many are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.generators.kl_codec import KLCodec
from polymodal.models.latent_diffusion import LatentDiffusion
from polymodal.pipelines.image_generation import PaintRequest

MOST = 1 << 21  # pixels of a picture


@dataclass(frozen=True, kw_only=True)
class LatentPainter:
    """encode(texts) -> their batch, padded to one length.  codec(model's weight) -> the codec, on its device.

    guidance: 1 = unguided.  negative: what is steered away from.  factor: pixels of a latent along a side.
    """

    model: LatentDiffusion
    encode: Callable[[Sequence[str]], Mapping[str, Any]]
    codec: Callable[[Tensor], KLCodec]
    factor: int = 8
    guidance: float = 7.5
    steps: int = 50
    negative: str = ""

    def __call__(self, request: PaintRequest) -> list[Tensor]:
        """uint8 [H, W, 3] of each seed.  Raises ConfigError for a size that the model cannot draw."""
        pictures = self.pixels(request)
        return [(picture * 255).round().to(torch.uint8) for picture in pictures]

    def pixels(self, request: PaintRequest) -> list[Tensor]:
        """float [H, W, 3] in 0..1 of each seed."""
        height, width = self._grid(request.size)
        times = self.model.schedule.times(self.steps if request.steps is None else request.steps)
        weight = self.model.unet.conv_in.weight
        codec = self.codec(weight)
        with torch.inference_mode():
            batch = {name: value.to(weight.device) if isinstance(value, Tensor) else value
                     for name, value in self.encode([request.text, self.negative]).items()}  # fmt: skip
            condition = self.model.condition(**batch)
            found = []
            for index, seed in enumerate(request.seeds):
                latents = self._latents(condition, (height, width), seed, request, times, index)
                found.append((codec.decode(latents)[0] / 2 + 0.5).clamp(0, 1).movedim(0, -1).float())
        return found

    def _latents(
        self, condition: Tensor, grid: tuple[int, int], seed: int, request: PaintRequest, times: list[int], index: int
    ) -> Tensor:
        """The latents [1, C, h, w] of the index-th picture; condition: of the wish and of the negative text."""
        unet, schedule = self.model.unet, self.model.schedule
        generator = torch.Generator().manual_seed(seed)

        def draw() -> Tensor:
            shape = (1, unet.config.latent, *grid)
            return torch.randn(shape, generator=generator, dtype=condition.dtype).to(condition.device)

        latents = draw()
        for number, time in enumerate(times):
            both = torch.full((2,), time, device=condition.device)
            asked, away = unet(latents.expand(2, -1, -1, -1), both, condition).split(1)
            noise = away + self.guidance * (asked - away)
            latents = schedule.previous(latents, noise, time, len(times), draw() if time else None)
            request.step(index * len(times) + number + 1, len(request.seeds) * len(times))
        return latents

    def _grid(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """Height and width in latents."""
        config = self.model.unet.config
        if size is None:
            return config.side, config.side
        width, height = size
        unit = self.factor * config.factor
        if width < 1 or height < 1 or width % unit or height % unit or width * height > MOST:
            sides = f"sides in multiples of {unit} pixels, {MOST:,} pixels in all"
            raise ConfigError(f"size {width}x{height}: expected {sides}")
        return height // self.factor, width // self.factor
