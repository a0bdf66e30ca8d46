"""Pictures of what a model imagines behind words and pictures: its vectors in place of a text encoder's (Emu).

parts of a wish -> ids that end in [IMG] -> n vectors [1, n, D]; of nothing at all: what is steered away from
-> `GuidedDiffusion`, a picture of each seed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.models.visual_regression_lm import VisualRegressionLM
from polymodal.pipelines.guided_diffusion import GuidedDiffusion
from polymodal.pipelines.image_generation import PaintRequest


@dataclass(frozen=True, kw_only=True)
class ImaginedPainter:
    """encode(parts of a wish) -> the batch of one row that ends in [IMG].  pipeline(): read when it is first needed."""

    model: VisualRegressionLM
    encode: Callable[[Sequence[Any]], Mapping[str, Any]]
    pipeline: Callable[[], GuidedDiffusion]
    steps: int = 50
    sees: bool = True

    def __call__(self, request: PaintRequest) -> list[Tensor]:
        """uint8 [H, W, 3] of each seed.  Raises ConfigError for sizes and steps that do not fit."""
        pipeline, steps = self.pipeline(), self.steps if request.steps is None else request.steps
        whole = len(request.seeds) * len(pipeline.sampler.start(steps).times)
        wish, nothing = (self.imagined(parts) for parts in (request.parts or (request.text,), ()))
        width, height = request.size or (None, None)
        found = []
        for number, seed in enumerate(request.seeds):

            def step(done: int, of: int, number: int = number) -> None:
                request.step(number * of + done, whole)

            drawn = pipeline(
                prompt_embeds=wish, negative_prompt_embeds=nothing, num_inference_steps=steps, width=width,
                height=height, generator=torch.Generator().manual_seed(seed), step=step,
            )  # fmt: skip
            found += [torch.from_numpy(np.asarray(each).copy()) for each in drawn.images]
        return found

    def imagined(self, parts: Sequence[Any]) -> Tensor:
        """What the model imagines behind them [1, n, D]."""
        weight = self.model.regression.weight
        batch = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in self.encode(parts).items() if isinstance(value, Tensor)
        }  # fmt: skip
        known = {"input_ids", *(name for inputs in self.model.inputs.values() for name in inputs.names)}
        return self.model.imagine(**{name: value for name, value in batch.items() if name in known}).clone()
