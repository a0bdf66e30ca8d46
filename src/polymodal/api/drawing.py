"""`Model.draw`: pictures that a model writes itself, and media that diffusion pipelines make of its answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from polymodal.api.asking import messages_of
from polymodal.api.reply import Reply
from polymodal.api.tensors import answering
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.decode_state import cast_batch
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.protocols import RendersAnswers
from polymodal.nn.first_weight import first_weight
from polymodal.pipelines.image_generation import PaintRequest, Step, unseen

if TYPE_CHECKING:
    from polymodal.api.model import Model

Painter = Callable[[PaintRequest], Sequence[torch.Tensor]]
MOST = 64  # pictures of one call


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What is wished of pictures beside their words.  size: (width, height) in pixels; n: how many."""

    size: tuple[int, int] | None = None
    n: int = 1
    step: Step = unseen

    @classmethod
    def of(cls, size: tuple[int, int] | None, n: int | None, step: Step | None) -> Canvas:
        """With the usual values for None."""
        return cls(size=size, n=1 if n is None else n, step=unseen if step is None else step)

    def __post_init__(self) -> None:
        size = self.size
        sides = size is None or (len(size) == 2 and all(type(side) is int and side > 0 for side in size))
        if not sides:
            raise ConfigError(f"size: expected (width, height) in pixels, found {size!r}")
        if type(self.n) is not int or not 1 <= self.n <= MOST:
            raise ConfigError(f"n: expected 1 to {MOST} pictures, found {self.n!r}")


def paint(model: Model, painter: Painter, content: Sequence[Any], canvas: Canvas, seed: int | None) -> Reply:
    """Pictures that `painter` writes from words: `reply.media["image"]`, PIL images; seed: of the first, None: any."""
    messages = list(messages_of(content))
    text = messages[-1].text.strip()
    if len(messages) > 1 or messages[-1].media or not text:
        raise PromptError(f"{model.name} draws from words alone: expected one text")
    begin, ids = time.perf_counter(), 0

    def step(written: int, whole: int) -> None:
        nonlocal ids
        ids = written
        canvas.step(written, whole)

    seed = random.randrange(2**31) if seed is None else seed
    seeds = tuple(seed + number for number in range(canvas.n))
    with torch.inference_mode(), answering(model):
        found = painter(PaintRequest(text=text, size=canvas.size, seeds=seeds, step=step))
    pictures = [Image.fromarray(picture.cpu().numpy()) for picture in found]
    return Reply(
        text="",
        model=model.name,
        tokens={"text": len(model.processor.tokenizer.encode(text)), "generated": ids},
        seconds={"load": model.load_seconds, "generate": time.perf_counter() - begin},
        media={"image": pictures},
    )


def rendered(
    model: Model,
    content: Sequence[Any],
    options: SamplingOptions,
    pipelines: Mapping[str, Callable[..., Any]],
    drawing: Mapping[str, Any] | None,
) -> Reply:
    """The model's answer with the media that it asks for, made by the caller's pipelines."""
    if isinstance(model.module, RendersAnswers):
        stream = model.stream(list(messages_of(content)), options=options)
        for _ in stream:
            pass
        text, media = model.module.render_answer(stream.reply.text, pipelines, drawing)
        return replace(stream.reply, text=text, media=media)
    reply, batch = answer_to_render(model, content, options)
    tensors = cast_batch(batch, first_weight(model.module))
    return replace(reply, media=model.module.render(pipelines, drawing, **tensors))


def answer_to_render(model: Model, content: Sequence[Any], options: SamplingOptions) -> tuple[Reply, dict[str, Any]]:
    """The model's answer, and the batch of the whole conversation, from which the media that it asks for are made."""
    messages = list(messages_of(content))
    stream = model.stream(messages, options=options)
    for _ in stream:
        pass
    batch = model.processor(messages, generate=True)
    written = torch.tensor([stream.ids], dtype=torch.int64)
    known = {"labels", "position_ids", "token_types", "attention_mask"}
    whole = {name: value for name, value in batch.items() if name not in known}
    whole["input_ids"] = torch.cat((batch["input_ids"], written), 1)
    return stream.reply, whole
