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
from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.protocols import RendersAnswers
from polymodal.models.signal_token_lm import SignalTokenLM
from polymodal.pipelines.guided_diffusion import Drawn, OwnPipelines
from polymodal.pipelines.image_generation import PaintRequest, SeesWishes, Step, check_steps, unseen

if TYPE_CHECKING:
    from polymodal.api.model import Model

Painter = Callable[[PaintRequest], Sequence[torch.Tensor]]
MOST = 64  # pictures of one call


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What is wished of pictures beside their words.  size: (width, height) in pixels; n: how many.

    steps: of diffusion.  given: whether any of it was said.
    """

    size: tuple[int, int] | None = None
    n: int = 1
    steps: int | None = None
    step: Step = unseen
    given: bool = False

    @classmethod
    def of(cls, *, size: tuple[int, int] | None, n: int | None, steps: int | None, step: Step | None) -> Canvas:
        """With the usual values for None."""
        return cls(size=size, n=1 if n is None else n, steps=steps, step=unseen if step is None else step,
                   given=(size, n, steps, step) != (None,) * 4)  # fmt: skip

    def __post_init__(self) -> None:
        size = self.size
        sides = size is None or (len(size) == 2 and all(type(side) is int and side > 0 for side in size))
        if not sides:
            raise ConfigError(f"size: expected (width, height) in pixels, found {size!r}")
        if type(self.n) is not int or not 1 <= self.n <= MOST:
            raise ConfigError(f"n: expected 1 to {MOST} pictures, found {self.n!r}")
        check_steps(self.steps)


def paint(model: Model, painter: Painter, content: Sequence[Any], canvas: Canvas, seed: int | None) -> Reply:
    """Pictures that `painter` writes from words: `reply.media["image"]`, PIL images; seed: of the first, None: any."""
    messages = list(messages_of(content))
    text = messages[-1].text.strip()
    sees = isinstance(painter, SeesWishes)
    if len(messages) > 1 or not (text or messages[-1].media) or (messages[-1].media and not sees):
        raise PromptError(f"{model.name} draws from words alone: expected one text")
    begin, ids = time.perf_counter(), 0

    def step(written: int, whole: int) -> None:
        nonlocal ids
        ids = written
        canvas.step(written, whole)

    seed = random.randrange(2**31) if seed is None else seed
    seeds = tuple(seed + number for number in range(canvas.n))
    request = PaintRequest(text=text, size=canvas.size, seeds=seeds, steps=canvas.steps, step=step,
                           parts=messages[-1].parts if sees else ())  # fmt: skip
    with torch.inference_mode(), answering(model):
        found = painter(request)
    pictures = [Image.fromarray(picture.cpu().numpy()) for picture in found]
    return Reply(
        text="",
        model=model.name,
        tokens={"text": len(model.processor.tokenizer.encode(text)), "generated": ids},
        seconds={"load": model.load_seconds, "generate": time.perf_counter() - begin},
        media={"image": pictures},
    )


@dataclass(frozen=True, kw_only=True)
class EachSeed:
    """A pipeline that draws its condition once for each seed.  size: (width, height), None: the model's usual."""

    pipeline: Callable[..., Any]
    seeds: tuple[int, ...]
    size: tuple[int, int] | None
    step: Step

    def __call__(self, **given: Any) -> Drawn:
        """Its pictures, in the order of the seeds."""
        sides = {} if self.size is None else {"width": self.size[0], "height": self.size[1]}
        images = []
        for number, seed in enumerate(self.seeds):

            def step(done: int, whole: int, number: int = number) -> None:
                self.step(number * whole + done, len(self.seeds) * whole)

            generator = torch.Generator().manual_seed(seed)
            images += self.pipeline(**{"step": step, "generator": generator, **sides, **given}).images
        return Drawn(images=images)


def render(
    model: Model,
    content: Sequence[Any],
    options: SamplingOptions,
    canvas: Canvas,
    pipelines: OwnPipelines,
    drawing: Mapping[str, Any] | None,
) -> Reply:
    """The answer, and by modality what the diffusion models of the folder draw for it: `n` for each of its signals.

    An answer that asks for no picture gets one at its end.
    """
    changes = dict(drawing or {})
    if canvas.steps is not None:
        changes["num_inference_steps"] = canvas.steps
    seed = random.randrange(2**31) if options.seed is None else options.seed
    seeds = tuple(seed + number for number in range(canvas.n))
    check_steps(changes.get("num_inference_steps"))
    drawers = {name: EachSeed(pipeline=each, seeds=seeds, size=canvas.size, step=canvas.step)
               for name, each in pipelines.make().items()}  # fmt: skip
    reply, batch = answer_to_render(model, content, options, asked=True)
    begin = time.perf_counter()
    with answering(model):
        found = model.module.render(drawers, changes, **model._tensors(batch))
    media = {name: [each for made in outputs for each in made] for name, outputs in found.items()}
    return replace(reply, media=media, seconds={**reply.seconds, "draw": time.perf_counter() - begin})


def render_through(
    model: Model,
    content: Sequence[Any],
    options: SamplingOptions,
    canvas: Canvas,
    pipelines: Mapping[str, Callable[..., Any]] | None,
    drawing: Mapping[str, Any] | None,
) -> Reply:
    """The answer, and what the caller's pipelines make of it.  Raises ConfigError where there are none."""
    if pipelines is None or canvas.given:
        what = "give pipelines=; size, n and steps in drawing="
        raise ConfigError(f"{model.name} draws through diffusion pipelines: {what}")
    if isinstance(model.module, RendersAnswers):
        reply = model.chat(*content, options=options)
        text, media = model.module.render_answer(reply.text, pipelines, drawing)
        return replace(reply, text=text, media=dict(media))
    reply, batch = answer_to_render(model, content, options)
    return replace(reply, media=model.module.render(pipelines, drawing, **model._tensors(batch)))


def answer_to_render(
    model: Model, content: Sequence[Any], options: SamplingOptions, asked: bool = False
) -> tuple[Reply, dict[str, Any]]:
    """The model's answer, and the batch of the whole conversation, from which the media that it asks for are made.

    asked: a picture is wanted; an answer without the signal for one gets it at its end.
    """
    messages = list(messages_of(content))
    stream = model.stream(messages, options=options)
    for _ in stream:
        pass
    batch = model.processor(messages, generate=True)
    ids = list(stream.ids)
    if asked and isinstance(model.module, SignalTokenLM):
        ids = model.module.signalled(without_end(ids, model.processor.tokenizer, options.stop), "image")
    written = torch.tensor([ids], dtype=torch.int64)
    known = {"labels", "position_ids", "token_types", "attention_mask"}
    whole = {name: value for name, value in batch.items() if name not in known}
    whole["input_ids"] = torch.cat((batch["input_ids"], written), 1)
    return stream.reply, whole


def without_end(ids: list[int], tokenizer: Tokenizer, stop: Sequence[str]) -> list[int]:
    """An answer without what ended it: the end token, or the tokens that hold a text at which it stops."""
    kept = list(ids)
    while kept and (kept[-1] == tokenizer.eos_id or any(each in tokenizer.decode(kept) for each in stop)):
        kept.pop()
    return kept
