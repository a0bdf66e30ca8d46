"""Pictures that are asked for with signals -> batches of GILL and of MiniGPT-5.

    DrawnOrFound     {"image": "a.jpg", "caption": "a cat", "signal_targets": "vector.npy"}
    SpokenMedia      {"question": "A cat?", "answer": "Here: <image>", "image": "a.jpg"}, with `latents` where there is
                     no codec, and of captions `signal_targets` with `empty_target`, what a text encoder says of nothing

What a generator's text encoder says of a caption is computed beforehand, as for train/signals.py.
Traps: a caption that is too long is cut in front of its signal; the latents of a picture are drawn, as the codec says
how surely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Image, Text
from polymodal.data.messages import Message
from polymodal.data.processor import Encoded
from polymodal.errors import ConfigError, PromptError
from polymodal.generators.noise_schedule import NoiseSchedule
from polymodal.models.signal_token_lm import SignalTokenLM
from polymodal.train.collator import Collator, Learner, MicroBatch, WrongKind
from polymodal.train.conversations import ConversationCollator, conversations
from polymodal.train.latents import latents_of, noised, picture_pixels
from polymodal.train.pairs import captioned
from polymodal.train.row_draws import RowDraws, seed_from
from polymodal.train.signals import PREFIX, occurrences

PICTURE = "image"


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """row: of a conversation.  ids: of the caption with its signal.  targets [k, Q, E], empty [1, Q, E]: what the text
    encoder says of captions and of nothing.  pixels [k, 3, H, W], or latents [k, C, h, w], of what the signals ask for.
    noise: the latents with what is drawn for them, by its name in the batch.
    """

    row: Encoded
    ids: list[int]
    targets: Tensor | None = None
    empty: Tensor | None = None
    pixels: Tensor | None = None
    latents: Tensor | None = None
    noise: Mapping[str, Tensor] = field(default_factory=dict)


def numbers(sample: Sample, name: str, dims: int) -> Tensor | None:
    """Numbers that stand beside a sample, of its pictures or plain, with a first axis of items."""
    given = sample.arrays.get(f"{name}.{PICTURE}", sample.arrays.get(name))
    if given is None:
        return None
    found = torch.as_tensor(given.values).float()
    found = found[None] if found.dim() == dims - 1 else found
    if found.dim() != dims:
        raise PromptError(f"its {name} are {list(found.shape)}; expected {dims} axes, the first of items")
    return found


@dataclass(frozen=True, kw_only=True)
class DrawnOrFound(Collator):
    """talks: of the captions behind their pictures.  signal: the ids that ask for a picture.  pad: fills short ones."""

    expects: ClassVar[str] = "pictures with a caption and signal_targets each"
    compares: ClassVar[bool] = True

    talks: ConversationCollator
    signal: tuple[int, ...]
    pad: int

    def item(self, sample: Sample) -> Spoken:
        """The caption behind its picture, and the caption with a signal behind it."""
        media, caption = captioned(sample)
        if not isinstance(media, Image):
            raise WrongKind(f"has {media.modality} where a picture is expected")
        targets = numbers(sample, PREFIX[:-1], 3)
        if targets is None or len(targets) != 1:
            raise PromptError(f"has {0 if targets is None else len(targets)} signal_targets; expected one")
        said = Message(role="assistant", parts=(Text(caption), media))
        ids = self.talks.processor.encode([said]).input_ids
        if (longest := self.talks.max_length) is not None and len(ids) > longest:
            ids = [*ids[: longest - len(self.signal)], *self.signal]
        return Spoken(row=self.talks.item(sample), ids=list(ids), targets=targets)

    def batch(self, items: Sequence[Spoken], generator: torch.Generator) -> MicroBatch:
        """See DrawOrFind."""
        made = self.talks.batch([each.row for each in items])
        longest = max(len(each.ids) for each in items)
        ids = [[*each.ids, *[self.pad] * (longest - len(each.ids))] for each in items]
        mask = [[1] * len(each.ids) + [0] * (longest - len(each.ids)) for each in items]
        beside = {
            "signal_ids": torch.tensor(ids),
            "signal_mask": torch.tensor(mask),
            "signal_targets": torch.cat([each.targets for each in items if each.targets is not None]),
        }
        return MicroBatch(batch={**made.batch, **beside}, targets=len(items), tokens=made.tokens + sum(map(sum, mask)))


@dataclass(frozen=True, kw_only=True)
class SpokenMedia(Collator):
    """codec(a tensor on its device) -> what encodes pixels in -1 .. 1, None: the data brings latents.  side: pixels.
    times: of the schedule of noise.  unguided: share of conditions that are dropped."""

    expects: ClassVar[str] = "conversations whose answers ask for pictures"

    talks: ConversationCollator
    signal: tuple[int, ...]
    side: int
    codec: Callable[[Tensor], Any] | None = None
    times: int = NoiseSchedule().trained
    unguided: float = 0.0

    def item(self, sample: Sample) -> Spoken:
        """The row, and what its signals should become.  Raises PromptError where they are not as many as signals."""
        row = self.talks.item(sample)
        count = occurrences(row.input_ids, self.signal)
        media = [each for message in sample.messages if message.role == "assistant" for each in message.media][:count]
        latents = numbers(sample, "latents", 4)
        if latents is None and count and self.codec is None:
            raise PromptError("has no latents, and the model's folder no diffusion model whose vae makes them")
        if latents is not None and len(latents) != count:
            raise PromptError(f"its answers ask for {count} pictures, and it has latents of {len(latents)}")
        targets, empty = numbers(sample, PREFIX[:-1], 3), numbers(sample, "empty_target", 3)
        if targets is not None and (len(targets) != count or empty is None or empty.shape[1:] != targets.shape[1:]):
            found = f"{list(targets.shape)} and {None if empty is None else list(empty.shape)}"
            raise PromptError(f"expected signal_targets [{count}, Q, E] and empty_target [1, Q, E], found {found}")
        pixels = None
        if latents is None and count:
            if odd := next((each.modality for each in media if not isinstance(each, Image)), None):
                raise PromptError(f"its answer asks for {odd} where a picture is expected")
            pixels = torch.stack([picture_pixels(each, self.side) for each in media if isinstance(each, Image)])
        return Spoken(row=row, ids=[], targets=targets, empty=empty, pixels=pixels, latents=latents)

    def drawn(self, sample: Sample, generator: torch.Generator) -> Spoken:
        """With latents of the pictures that the row asks for, drawn as the codec says how surely, and their noise."""
        found = self.item(sample)
        count = len(found.pixels if found.pixels is not None else found.latents if found.latents is not None else ())
        draws = RowDraws([seed_from(generator) for _ in range(count)])
        latents = found.latents
        if found.pixels is not None and self.codec is not None:
            latents = latents_of(self.codec, found.pixels, draws)
        if latents is None or not count:
            return found
        chances = {"dropped": draws.share() < self.unguided}
        return replace(found, pixels=None, latents=latents, noise={**noised(latents, draws, self.times), **chances})

    def arranged(self, items: list[Spoken]) -> list[Spoken]:
        """Rows of a length beside each other."""
        return sorted(items, key=lambda item: len(item.row))

    def batch(self, items: Sequence[Spoken], generator: torch.Generator) -> MicroBatch:
        """See SpokenPictures."""
        made = self.talks.batch([each.row for each in items])
        asked = [each for each in items if each.latents is not None]
        beside = {name: torch.cat([each.noise[name] for each in asked]) for name in (asked[0].noise if asked else ())}
        if asked and all(each.targets is not None for each in asked):
            beside["signal_targets"] = torch.cat([each.targets for each in asked if each.targets is not None])
            beside["empty_target"] = next(each.empty for each in asked if each.empty is not None)
        count = len(beside.get("latents", ()))
        counts = {"noise": count} | ({"caption": count} if "signal_targets" in beside else {}) if count else {}
        return MicroBatch(batch={**made.batch, **beside}, targets=made.targets, tokens=made.tokens, counts=counts)

    def blank(self) -> MicroBatch:
        """As of conversations."""
        return self.talks.blank()


def drawn_or_found(learner: Learner) -> DrawnOrFound:
    """Raises ConfigError for a model that writes no signals."""
    model = require_signals(learner)
    talks = conversations(learner)
    tokenizer = talks.processor.tokenizer
    pad = tokenizer.pad_id if tokenizer.pad_id is not None else 0
    return DrawnOrFound(talks=talks, signal=tuple(model.signals[PICTURE]), pad=pad)


def spoken_media(
    learner: Learner, side: int, codec: Callable[[Tensor], Any] | None, unguided: float = 0.0
) -> SpokenMedia:
    """Raises ConfigError for a model that writes no signals."""
    signal = tuple(require_signals(learner).signals[PICTURE])
    return SpokenMedia(talks=conversations(learner), signal=signal, side=side, codec=codec, unguided=unguided)


def require_signals(learner: Learner) -> SignalTokenLM:
    """The model itself.  Raises ConfigError for one that writes none, for packed rows, and for several processes."""
    if not isinstance(learner.module, SignalTokenLM):
        raise ConfigError(f"signals are written by a SignalTokenLM, not by a {type(learner.module).__name__}")
    if learner.ranks > 1:
        raise ConfigError("single rows of the table of tokens learn in this stage: run it in one process")
    if learner.packing:
        raise ConfigError("packing: rows of this stage hold what their signals should become; leave it out")
    return learner.module
