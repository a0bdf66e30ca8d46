"""Several outputs at once from a mixture of conditions: one timestep for all of them, DDIM, guided (CoDi).

    conditions and empty ones -> mean by `mix` -> noise of each output -> for each time: the noise seen in all of them,
    guided -> a step of each -> codecs -> pictures, films, recordings, texts

Traps: noise is drawn on the host output by output, in the order that is asked for; what has no condition is drawn from
the empty text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polymodal.data.media import Audio, Media
from polymodal.data.video_writing import Film
from polymodal.errors import ConfigError
from polymodal.generators.samplers import SamplerConfig
from polymodal.models.joint_diffusion import JointDiffusion
from polymodal.pipelines.image_generation import Step, unseen

MOST = 1 << 20  # pixels of a picture


@dataclass(frozen=True, kw_only=True)
class ComposeRequest:
    """What is wished.  outputs: names of modalities; text, media: the conditions, one of a modality at most.

    size: (width, height) of pictures and videos; frames: of a video; mix: the weight of each condition's modality.
    """

    outputs: tuple[str, ...]
    text: str = ""
    media: tuple[Media, ...] = ()
    size: tuple[int, int] | None = None
    frames: int = 8
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    mix: Mapping[str, float] = field(default_factory=dict)
    step: Step = unseen


@runtime_checkable
class Composes(Protocol):
    """What makes media of several kinds: of a request, by kind, one of each seed."""

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def __call__(self, request: ComposeRequest) -> dict[str, list[Any]]: ...


@dataclass(frozen=True, kw_only=True)
class LatentShapes:
    """side: pixels of a picture.  sound: (frames, bands) of a sound's latents; rate: of its samples; fps: of videos."""

    side: int = 256
    sound: tuple[int, int] = (256, 16)
    rate: int = 16_000
    fps: float = 4.0


@dataclass(frozen=True, kw_only=True)
class Composer:
    """conditions(text, media) -> two batches of tensors with one row each: the condition, and the same of nothing.

    read(latents) -> a text of each; None where the folder has no vocabulary for it.
    """

    model: JointDiffusion
    conditions: Callable[[str, Sequence[Media]], tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]
    read: Callable[[Tensor, int], list[str]] | None
    shapes: LatentShapes = field(default_factory=LatentShapes)
    guidance: float = 7.5
    steps: int = 50
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(kind="ddim", offset=1))

    @property
    def outputs(self) -> tuple[str, ...]:
        """What can be made."""
        return tuple(each for each in self.model.outputs if each != "text" or self.read is not None)

    def __call__(self, request: ComposeRequest) -> dict[str, list[Any]]:
        """By output one of each seed: PIL images, `Film`, `Audio`, texts.  Raises ConfigError and PromptError."""
        for name in request.outputs:
            if name not in self.outputs:
                raise ConfigError(f"this folder makes {', '.join(self.outputs)}, not {name}")
        steps = self.steps if request.steps is None else request.steps
        whole = len(request.seeds) * len(self.sampler.start(steps).times)
        shapes = {name: self.shape(name, request) for name in request.outputs}
        found: dict[str, list[Any]] = {name: [] for name in request.outputs}
        with torch.inference_mode():
            condition = self.condition(request)
            for number, seed in enumerate(request.seeds):

                def step(done: int, of: int, number: int = number) -> None:
                    request.step(number * of + done, whole)

                latents = self.latents(condition, shapes, steps, seed, step)
                for name, x in latents.items():
                    found[name].append(self.decoded(name, x, seed))
        return found

    def condition(self, request: ComposeRequest) -> Tensor:
        """That of nothing, then that of the request [2, 1, E]."""
        words: Any = self.model.encoders["text"]
        weight: Tensor = words.embed_tokens.weight
        rows = []
        for batch in reversed(self.conditions(request.text, request.media)):
            tensors = {name: x.to(weight.device, weight.dtype if x.is_floating_point() else None)
                       for name, x in batch.items()}  # fmt: skip
            rows.append(self.model.mixed(self.model.conditions(**tensors), request.mix))
        return torch.cat(rows)

    def latents(
        self, condition: Tensor, shapes: Mapping[str, Sequence[int]], steps: int, seed: int, step: Step = unseen
    ) -> dict[str, Tensor]:
        """Clean latents [1, ...] of each output, from the noise of a seed."""
        generator = torch.Generator().manual_seed(seed)
        samples = {name: torch.randn((1, *shape), generator=generator, dtype=condition.dtype).to(condition.device)
                   for name, shape in shapes.items()}  # fmt: skip
        walks = {name: self.sampler.start(steps) for name in shapes}
        times = next(iter(walks.values())).times
        for number, time in enumerate(times):
            both = {name: x.repeat(2, *(1,) * (x.dim() - 1)) for name, x in samples.items()}
            seen = self.model.seen(both, torch.full((2,), time, device=condition.device), condition)
            for name, walk in walks.items():
                away, asked = seen[name].chunk(2)
                samples[name] = walk.step(away + self.guidance * (asked - away), samples[name])
            step(number + 1, len(times))
        return samples

    def shape(self, name: str, request: ComposeRequest) -> tuple[int, ...]:
        """Of the latents of an output without the batch.  Raises ConfigError for a size that does not fit."""
        config, shapes = self.model.unet(name).config, self.shapes
        if name == "text":
            return (config.latent,)
        if name == "audio":
            return (config.latent, *shapes.sound)
        width, height = request.size or (shapes.side, shapes.side)
        codec: Any = self.model.codecs["image"]
        pixels = codec.config.stack.factor
        unit = pixels * config.factor
        if width < 1 or height < 1 or width % unit or height % unit or width * height > MOST:
            raise ConfigError(f"size {width}x{height}: expected sides in multiples of {unit} pixels, {MOST:,} pixels "
                              "in all")  # fmt: skip
        grid = (height // pixels, width // pixels)
        return (config.latent, *grid) if name == "image" else (config.latent, request.frames, *grid)

    def decoded(self, name: str, latents: Tensor, seed: int) -> Any:
        """What latents [1, ...] of an output are to a person."""
        codecs: Any = self.model.codecs
        if name == "text":
            assert self.read is not None
            return self.read(latents, seed)[0]
        if name == "audio":
            samples = codecs["audio"].samples(latents)[0].float().cpu().numpy()
            return Audio((samples, self.shapes.rate))
        frames = latents[0].transpose(0, 1) if name == "video" else latents
        pixels = (codecs["image"].decode(frames) / 2 + 0.5).clamp(0, 1).movedim(1, -1).float().cpu().numpy()
        made = np.rint(pixels * 255).astype(np.uint8)
        return Film(frames=made, fps=self.shapes.fps) if name == "video" else Image.fromarray(made[0])
