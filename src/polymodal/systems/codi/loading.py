"""What a folder of CoDi answers with: CLIP's words, pictures, frames and sounds as conditions; words from a vector.

    tokenizer of the folder               CLIP's, of 77 tokens
    optimus_encoder, a folder inside      BERT's tokenizer files, cased: captions that are learned
    optimus_decoder, another              GPT-2's tokenizer files: texts that are written

The last two may be absent: then no text is learned, and none is made.
Traps: sound is brought to 16 kHz first, then to CLAP's 48 kHz; the spectrogram is that of torchlibrosa; the published
code cuts pictures at a random place and mirrors half of them, which is left out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from polymodal.data.media import Audio, Image, Media, Video
from polymodal.data.mel import MelConfig, log_power
from polymodal.data.resample import resample
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.tokenizer_files import read_tokenizer
from polymodal.data.transforms import ShorterSideCrop
from polymodal.errors import PromptError
from polymodal.generation.sampling import sample
from polymodal.models.joint_diffusion import CONDITIONS, JointDiffusion
from polymodal.models.text_latents import TextLatents
from polymodal.pipelines.composing import Composer
from polymodal.systems import CheckpointFiles, LoadedModel

HEARD = MelConfig(rate=48_000, window=1024, hop=480, mels=64, low=50.0, high=14_000.0, seconds=None)
SECONDS, RATE = 10, 16_000
FRAMES = 8
SQUARE = 512  # pixels of a picture before CLIP's own size
WORDS = 30  # tokens of a written text at most
PAD, BEGIN, END = MARKS = ("<PAD>", "<BOS>", "<EOS>")


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Words and media as the tensors of one row each; side: of CLIP's pictures in pixels; length: of its texts."""

    tokenizer: Tokenizer
    side: int
    length: int = 77

    def __call__(self, text: str, media: Sequence[Media]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The tensors of the conditions, and of nothing in each of them.  Raises PromptError for two of a kind."""
        asked: dict[str, Tensor] = {}
        empty: dict[str, Tensor] = {}
        if text or not media:
            asked["input_ids"], empty["input_ids"] = self.words(text), self.words("")
        for item in media:
            name = CONDITIONS.get(item.modality)
            if name is None or item.modality == "text":
                raise PromptError(f"codi: takes pictures, videos and sounds as conditions, not {item.modality}")
            if name in asked:
                raise PromptError(f"codi: expected one {item.modality} as a condition, found several")
            asked[name], empty[name] = self.item(item)
        return asked, empty

    def words(self, text: str) -> Tensor:
        """`[1, T]`, cut at `length`."""
        begin, end = (self.tokenizer.special(each) for each in ("<|startoftext|>", "<|endoftext|>"))
        ids = self.tokenizer.encode(text)[: self.length - 2] if text else []
        return torch.tensor([[begin, *ids, end]])

    def item(self, item: Media) -> tuple[Tensor, Tensor]:
        """An item, and nothing in its place: grey, or silence."""
        if isinstance(item, Audio):
            return heard(item.samples(RATE))[None], heard(np.zeros(RATE, np.float32))[None]
        if isinstance(item, Video):
            frames = [Pillow.fromarray(each) for each in item.clip(frames=FRAMES).frames]
            seen = torch.stack([self.picture(each, SQUARE // 2) for each in frames])
            return seen[None], self.grey().expand_as(seen)[None]
        assert isinstance(item, Image)
        return self.picture(item.picture, SQUARE)[None], self.grey()[None]

    def picture(self, picture: Pillow.Image, square: int) -> Tensor:
        """Its middle, brought to `square` pixels and then to CLIP's side, float32 [3, side, side]."""
        picture = picture.convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        cut = picture.crop((left, top, left + side, top + side)).resize((square, square), Pillow.Resampling.BICUBIC)
        return ShorterSideCrop(size=self.side, crop=self.side)(cut)

    def grey(self) -> Tensor:
        """`[3, side, side]`"""
        return self.picture(Pillow.new("RGB", (self.side, self.side), (127, 127, 127)), self.side)


def heard(samples: np.ndarray) -> Tensor:
    """CLAP's log-mel spectrogram in decibel of the first ten seconds at 16 kHz, repeated to fill them: [1, 1001, 64].

    Raises PromptError for a recording without a sample.
    """
    if not len(samples):
        raise PromptError("codi: the recording is empty; a sound needs one sample at least")
    wave = resample(np.ascontiguousarray(samples[: SECONDS * RATE]), RATE, HEARD.rate)
    whole = SECONDS * HEARD.rate
    wave = np.tile(wave[:whole], max(1, whole // len(wave)))[:whole]
    wave = np.pad(wave, (0, whole - len(wave)))
    return 10 * log_power(torch.from_numpy(wave), HEARD, center=True).T[None]


@dataclass(frozen=True, kw_only=True)
class TextReader:
    """Vectors [N, Z] -> texts, sampled token by token as the published code does."""

    codec: TextLatents
    tokenizer: Tokenizer

    def __call__(self, latents: Tensor, seed: int) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return [self.one(each[None], generator) for each in latents]

    def one(self, latents: Tensor, generator: torch.Generator) -> str:
        """The text of one vector [1, Z]."""
        begin, end = self.tokenizer.special(BEGIN), self.tokenizer.special(END)
        cache, ids = self.codec.begin(latents, WORDS), [begin]
        while len(ids) < WORDS - 1:
            last = torch.tensor([[ids[-1]]], device=latents.device)
            logits = self.codec.logits(latents, last, cache)[:, -1].float().cpu()
            ids.append(int(sample(logits, torch.rand(1, generator=generator, dtype=torch.float64))))
            if ids[-1] == end:
                break
        return without_echo(self.tokenizer.decode([each for each in ids[1:] if each != end]))


def without_echo(text: str) -> str:
    """A text without words, and rows of words, that are said twice in a row."""
    words = text.split()
    for length in range(1, len(words) // 2 + 1):
        place = 0
        while place + 2 * length <= len(words):
            if words[place : place + length] == words[place + length : place + 2 * length]:
                del words[place : place + length]
            else:
                place += 1
    return " ".join(words)


def vocabulary(files: CheckpointFiles, name: str, **options: Any) -> Tokenizer | None:
    """The tokenizer of a folder inside, None where it is absent.  Raises ConfigError for one without a vocabulary."""
    there = files.folder / name
    return read_tokenizer(there, **options) if there.is_dir() else None


def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """Everything that the folder's vocabularies allow."""
    assert isinstance(module, JointDiffusion)
    tokenizer = files.tokenizer()
    vision: Any = module.encoders["image"]
    words: Any = module.encoders["text"]
    conditions = Conditions(tokenizer=tokenizer, side=vision.vit.config.image_size, length=words.config.positions)
    codec, written, read = module.codecs["text"], vocabulary(files, "optimus_decoder", added=MARKS), None
    if written is not None:
        assert isinstance(codec, TextLatents)
        read = TextReader(codec=codec, tokenizer=written)
    composer = Composer(model=module, conditions=conditions, read=read)
    return LoadedModel(model=module, processor=None, paint=composer if composer.outputs else None,
                       collator=partial(collator, module=module, conditions=conditions, files=files))  # fmt: skip


def collator(
    objective: Any, learner: Any, module: JointDiffusion, conditions: Conditions, files: CheckpointFiles
) -> Any:
    """What data files become for an objective of CoDi's; None for another."""
    from polymodal.systems.codi.training_data import collator_of

    learned = vocabulary(files, "optimus_encoder")
    return collator_of(objective, module, conditions, learned)
