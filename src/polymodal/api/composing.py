"""`Model.compose`: pictures, videos, sounds and texts, made together from a mixture of conditions."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from polymodal.api.asking import messages_of
from polymodal.api.drawing import Canvas
from polymodal.api.inputs import check_conversation
from polymodal.api.reply import Reply
from polymodal.api.tensors import answering
from polymodal.data.video_writing import Film
from polymodal.errors import ConfigError, PromptError
from polymodal.pipelines.composing import ComposeRequest, Composes

if TYPE_CHECKING:
    from polymodal.api.model import Model


def compose(
    self: Model,
    *content: Any,
    make: str | Sequence[str] = (),
    size: tuple[int, int] | None = None,
    n: int | None = None,
    steps: int | None = None,
    step: Callable[[int, int], None] | None = None,
    seed: int | None = None,
    mix: Mapping[str, float] | None = None,
    frames: int = 8,
) -> Reply:
    """`compose("rain on a roof", pm.image("roof.jpg"), make=("video", "audio")).media`: by modality, one of each seed.

    Pictures are PIL images, recordings `pm.audio`s, videos `Film`s (frames, fps, sound; `mp4()` is the file), texts
    str.  A video that is made with a sound has it as its own.
    make: modalities, made together; none: the first that the model makes.  size, n, steps, step: as `draw` takes them.
    seed: of the first, None: any.  mix: the weight of each condition's modality, 1 where it has none.  frames: of a
    video.
    Raises ConfigError for a model that does not compose, and for what it does not make.
    """
    composer = composer_of(self)
    canvas = Canvas.of(size=size, n=n, steps=steps, step=step)
    outputs = outputs_of(make, composer)
    messages = list(messages_of(content))
    check_conversation(self, messages)
    text, media = messages[-1].text.strip(), tuple(messages[-1].media)
    if len(messages) > 1 or not (text or media):
        raise PromptError(f"{self.name} composes from one message: a text, pictures, videos, sounds")
    if type(frames) is not int or not 1 <= frames <= 30:
        raise ConfigError(f"frames: expected 1 to 30 frames of a video, found {frames!r}")
    if unknown := sorted(set(mix or {}) - set(self.system.inputs)):
        raise ConfigError(f"mix: no condition is called {unknown[0]!r}; expected {', '.join(self.system.inputs)}")
    begin, ids = time.perf_counter(), 0

    def told(written: int, whole: int) -> None:
        nonlocal ids
        ids = written
        canvas.step(written, whole)

    seed = random.randrange(2**31) if seed is None else seed
    request = ComposeRequest(
        outputs=outputs, text=text, media=media, size=canvas.size, frames=frames, steps=canvas.steps, mix=mix or {},
        seeds=tuple(seed + number for number in range(canvas.n)), step=told,
    )  # fmt: skip
    with torch.inference_mode(), answering(self):
        found = composer(request)
    if "video" in found and "audio" in found:
        films = zip(found["video"], found["audio"], strict=True)
        found["video"] = [replace(film, sound=sound) for film, sound in films if isinstance(film, Film)]
    return Reply(
        text="\n".join(found.get("text", ())),
        model=self.name,
        tokens=counted(self, text, ids),
        seconds={"load": self.load_seconds, "generate": time.perf_counter() - begin},
        media=found,
    )


def counted(model: Model, text: str, ids: int) -> dict[str, int]:
    """Tokens that were read and ids that were written, of a model that has words."""
    return {} if model.processor is None else {"text": len(model.processor.tokenizer.encode(text)), "generated": ids}


def makes(self: Model) -> tuple[str, ...]:
    """What it makes by itself, by modality: several things together, pictures alone, or nothing."""
    painter = self._parts.paint
    return painter.outputs if isinstance(painter, Composes) else ("image",) if painter is not None else ()


def composes(self: Model) -> bool:
    """Whether `compose` makes what is asked for."""
    return isinstance(self._parts.paint, Composes)


def composer_of(model: Model) -> Composes:
    """What composes.  Raises ConfigError for a model without it."""
    model.require("draw")
    composer = model._parts.paint
    if not isinstance(composer, Composes):
        raise ConfigError(f"{model.name} makes pictures alone, with draw(); to compose, take a model such as codi")
    return composer


def outputs_of(make: str | Sequence[str], composer: Composes) -> tuple[str, ...]:
    """The modalities that are asked for, each once.  Raises ConfigError for one that is not made."""
    asked = (make,) if isinstance(make, str) else tuple(make)
    if not asked:
        return (composer.outputs[0],)
    for name in asked:
        if name not in composer.outputs:
            raise ConfigError(f"make: expected {', '.join(composer.outputs)}, found {name!r}")
    if len(set(asked)) < len(asked):
        raise ConfigError(f"make: each modality is made once, found {', '.join(asked)}")
    return asked
