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
    return [
        Measure(name="first token, new picture", unit="s", sides={"polymodal": lambda: cold(model)}, more=False),
        Measure(name="first token, second turn", unit="s", sides={"polymodal": lambda: warm(model)}, more=False),
        Measure(name="preparing a picture", unit="s", sides={"polymodal": lambda: prepared(model)}, more=False),
    ]


def picture() -> Any:
    """A new record of 640 x 480 pixels."""
    return pm.image(np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8))


def cold(model: pm.Model) -> tuple[float, str]:
    """Seconds to the first token of a question about a picture never seen, and the token."""
    model.clear_caches()
    start = time.perf_counter()
    reply = model.chat("What is in the picture?", picture(), max_tokens=1)
    return time.perf_counter() - start, reply.text


def warm(model: pm.Model) -> tuple[float, str]:
    """The same of a second question about it."""
    model.clear_caches()
    asked = {"role": "user", "content": [picture(), "What is in the picture?"]}
    first = model.chat([asked], max_tokens=1)
    turns = [asked, {"role": "assistant", "content": first.text or "x"}, {"role": "user", "content": "What else?"}]
    start = time.perf_counter()
    reply = model.chat(turns, max_tokens=1)
    return time.perf_counter() - start, reply.text


def prepared(model: pm.Model) -> tuple[float, list[int]]:
    """Seconds from a picture's pixels to the row of ids and what the encoder reads, and the ids."""
    processor = model.processor
    talk = conversation([{"role": "user", "content": [picture(), "What is this?"]}])
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
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    pillow = Image.fromarray(pixels)
    # Both round to whole pixels once more or once less than the other: one step of 255, over the smallest deviation.
    tolerance = 1.01 / 255 / 0.26

    def timed(make: Callable[[], torch.Tensor]) -> Callable[[], tuple[float, Near]]:
        def run() -> tuple[float, Near]:
            start = time.perf_counter()
            made = make()
            return time.perf_counter() - start, Near(made, tolerance)

        return run

    return [
        Measure(name="picture for CLIP", unit="s", more=False, sides={
            "polymodal": timed(lambda: ours_clip(pillow)),
            "transformers": timed(lambda: clip(pillow, return_tensors="pt")["pixel_values"][0]),
        }),
        Measure(name="picture for Qwen2-VL", unit="s", more=False, sides={
            "polymodal": timed(lambda: ours_qwen(pillow)["patches"]),
            "transformers": timed(lambda: qwen([pillow], return_tensors="pt")["pixel_values"]),
        }),
    ]  # fmt: skip
