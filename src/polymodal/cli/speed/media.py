"""The first token about a picture, cold and in the second turn, and the preparation of the picture by itself."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

import polymodal as pm
from polymodal.check import library
from polymodal.cli.speed.rounds import Measure, Near
from polymodal.data import hf_image
from polymodal.data.messages import conversation
from polymodal.data.patches import MergedPatches


def measures(model: pm.Model) -> list[Measure]:
    """Of a model that is asked about pictures; none of another."""
    if "image" not in model.system.inputs or "chat" not in model.can:
        return []
    talk = turns()
    return [
        Measure(name="first token, new picture", unit="s", more=False,
                sides={"polymodal": lambda: cold(model, talk[:1])}),
        Measure(name="first token, second turn", unit="s", more=False, sides={
            "polymodal": lambda: warm(model),
            "cold": lambda: cold(model, talk),
        }, aims={"cold": 1 / 0.3}),
        Measure(name="preparing a picture", unit="s", sides={"polymodal": lambda: prepared(model)}, more=False),
    ]  # fmt: skip


def pixels() -> np.ndarray:
    """A picture of noise, [480, 640, 3] uint8."""
    return np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)


def turns() -> list[dict[str, Any]]:
    """A question about a picture, an answer, and a second question."""
    return [
        {"role": "user", "content": [pm.image(pixels()), "What is in the picture?"]},
        {"role": "assistant", "content": "A house."},
        {"role": "user", "content": "What else?"},
    ]


def cold(model: pm.Model, talk: list[dict[str, Any]]) -> tuple[float, str]:
    """Seconds to the first token of an answer, its picture never seen before, and the token."""
    model.clear_caches()
    return timed_chat(model, talk)


def warm(model: pm.Model) -> tuple[float, str]:
    """The same of the second question, behind the first."""
    model.clear_caches()
    talk = turns()
    model.chat(talk[:1], max_tokens=1)
    return timed_chat(model, talk)


def timed_chat(model: pm.Model, talk: list[dict[str, Any]]) -> tuple[float, str]:
    """Seconds to the first token, and the token."""
    start = time.perf_counter()
    reply = model.chat(talk, max_tokens=1)
    return time.perf_counter() - start, reply.text


def prepared(model: pm.Model) -> tuple[float, list[int]]:
    """Seconds from a picture's pixels to the row of ids and what the encoder reads, and the ids."""
    processor = model.processor
    talk = conversation(turns()[:1])
    start = time.perf_counter()
    encoded = processor.encode(talk, generate=True)
    return time.perf_counter() - start, list(encoded.input_ids)


def preprocessing() -> list[Measure]:
    """A picture of 640 x 480 as CLIP and Qwen2-VL take it, beside the processors of `transformers`; none without it.

    Those of torchvision are not among them: polymodal does without that package.
    """
    if importlib.util.find_spec("transformers") is None:
        return []
    with library.quiet() as transformers:
        clip, qwen = transformers.CLIPImageProcessorPil(), transformers.Qwen2VLImageProcessorPil()
    ours_clip, ours_qwen = hf_image.transform_of({}, hf_image.CLIP), MergedPatches()
    pillow = Image.fromarray(pixels())
    # Both round to whole pixels once more or once less than the other: one step of 255, over the smallest deviation.
    tolerance = 1.01 / 255 / 0.26

    def timed(make: Callable[[], torch.Tensor]) -> Callable[[], tuple[float, Near]]:
        def run() -> tuple[float, Near]:
            start = time.perf_counter()
            made = make()
            return time.perf_counter() - start, Near(made, tolerance)

        return run

    return [
        Measure(name="picture for CLIP", unit="s", more=False, aims={"transformers": 1.3}, sides={
            "polymodal": timed(lambda: ours_clip(pillow)),
            "transformers": timed(lambda: clip(pillow, return_tensors="pt")["pixel_values"][0]),
        }),
        Measure(name="picture for Qwen2-VL", unit="s", more=False, aims={"transformers": 3.0}, sides={
            "polymodal": timed(lambda: ours_qwen(pillow)["patches"]),
            "transformers": timed(lambda: qwen([pillow], return_tensors="pt")["pixel_values"]),
        }),
    ]  # fmt: skip
