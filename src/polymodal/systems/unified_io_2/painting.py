"""Pictures and sounds that Unified-IO 2 writes: code by code behind a prompt, pictures steered away from any.

"[Image] [S] " + a description -> codes, drawn from the likeliest 90% -> VQGAN -> pixels
guidance: (1 + s) log p(code | description) - s log p(code | "An image of a random picture."), s = 10
"[Audio] [S] " + a description -> 512 codes -> ViT-VQGAN -> the logarithm of a mel spectrogram [128, 256] -> HiFi-GAN
    -> 65,536 samples at 16 kHz, 4.096 s (vocoder.py)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image as Pillow
from torch import Tensor

from polymodal.data.encoder_decoder_processor import EncoderDecoderProcessor
from polymodal.data.media import Audio, Media, Text
from polymodal.data.messages import Message
from polymodal.errors import ConfigError
from polymodal.generation.grammars import Grid
from polymodal.generation.guidance import guided
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.unified_io_2 import FIRST_CODE, UnifiedIO2
from polymodal.pipelines.composing import ComposeRequest
from polymodal.pipelines.image_generation import PaintRequest, Step, unseen
from polymodal.systems.unified_io_2.vocoder import RATE, Voice

PREFIX = {"text": "[Text] [S] ", "image": "[Image] [S] ", "audio": "[Audio] [S] "}
NOTHING, SCALE = "An image of a random picture.", 10.0
SOUND_MEAN, SOUND_STD = -5.0945, 3.8312
DRAWN = SamplingOptions(temperature=1.0, top_p=0.9)


@dataclass(frozen=True, kw_only=True)
class CodePainter:
    """See the module docstring.  voice: what makes samples of a spectrogram."""

    model: UnifiedIO2
    processor: EncoderDecoderProcessor
    voice: Voice | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("image", "audio")

    def __call__(self, request: ComposeRequest) -> dict[str, list[Any]]:
        """By kind one of each seed: PIL images, `Audio`.

        Raises ConfigError for a size that the model cannot write, for weights, and for sound without its vocoder.
        """
        if request.mix:
            raise ConfigError("mix: this model does not weigh what it is given")
        if request.size is not None and "image" not in request.outputs:
            raise ConfigError("size: a sound has no width and height")
        if "audio" in request.outputs:
            self.require_voice()
        counts = {kind: math.prod(self.model.grid(kind)) * len(request.seeds) for kind in request.outputs}
        done, found, makers = 0, {}, {"image": self.pictures, "audio": self.sounds}
        for kind, count in counts.items():

            def step(written: int, whole: int, done: int = done) -> None:
                request.step(done + written, sum(counts.values()))

            wish = PaintRequest(text=request.text, size=request.size, seeds=request.seeds, steps=request.steps,
                                parts=request.media, step=step)  # fmt: skip
            found[kind] = makers[kind](wish)
            done += count
        return found

    def pictures(self, request: PaintRequest) -> list[Any]:
        """PIL images.  Raises ConfigError for a size that the model cannot write."""
        request.require_no_steps()
        rows, columns = self.model.grid("image")
        codec: Any = self.model.codecs["image"]
        request.require_size(columns * codec.config.stack.factor, rows * codec.config.stack.factor)
        pixels = [self.model.written("image", ids)[0].clamp(-1, 1) for ids in self.each("image", request, SCALE)]
        made = [((each + 1) * 127.5).to(torch.uint8).permute(1, 2, 0) for each in pixels]
        return [Pillow.fromarray(each.cpu().numpy()) for each in made]

    def sounds(self, request: PaintRequest) -> list[Any]:
        """`Audio` of 256 samples a frame.  Raises ConfigError without a vocoder."""
        request.require_no_steps()
        voice = self.require_voice()
        logs = [self.logs(ids) for ids in self.each("audio", request, 0)]
        return [Audio((voice.samples(each).numpy(), RATE)) for each in logs]

    def require_voice(self) -> Voice:
        """The vocoder.  Raises ConfigError without one, before anything is written."""
        if self.voice is None:
            raise ConfigError("this painter has no vocoder, so it makes no sound")
        _ = self.voice.vocoder
        return self.voice

    def each(self, kind: str, request: PaintRequest, scale: float) -> Iterator[Tensor]:
        """The ids of a picture or sound [1, codes] for each seed."""
        count = math.prod(self.model.grid(kind))
        for number, seed in enumerate(request.seeds):

            def step(written: int, whole: int, number: int = number) -> None:
                request.step(number * count + written, len(request.seeds) * count)

            options = replace(DRAWN, seed=seed, max_tokens=count)
            yield self.codes(kind, request.text, options, request.parts, scale=scale, step=step)

    def logs(self, ids: Tensor) -> Tensor:
        """Codes [1, n] -> the logarithm of the power of a mel spectrogram [128, 256]."""
        return self.model.written("audio", ids)[0, 0] * SOUND_STD + SOUND_MEAN

    def codes(
        self,
        kind: str,
        wish: str,
        options: SamplingOptions,
        media: Sequence[Media] = (),
        *,
        scale: float = SCALE,
        step: Step = unseen,
    ) -> Tensor:
        """The ids of a picture or sound [1, codes]; scale: of guidance, for pictures from words alone."""
        rows, columns = self.model.grid(kind)
        codec: Any = self.model.codecs[kind]
        first = self.model.tables.span(kind)[0] + FIRST_CODE
        grid = Grid(height=rows, width=columns, codes=torch.arange(first, first + codec.config.codes))
        rules = DecodingConstraints(eos=frozenset(), allowed=[grid], allow_past_context=True, placeholders=True)
        batches, weights = [self.batch(kind, wish, media)], [1.0]
        if kind == "image" and not media and scale:
            batches, weights = [*batches, self.batch(kind, NOTHING)], [1 + scale, -scale]
        ids: list[int] = []
        for piece in guided(self.model, batches, weights, options, rules):
            ids.append(piece.id)
            step(len(ids), rows * columns)
        return torch.tensor([ids], device=batches[0]["input_ids"].device)

    def batch(self, kind: str, wish: str, media: Sequence[Media] = ()) -> dict[str, Any]:
        """The batch behind whose start a picture or sound is written."""
        words = wish if wish.startswith(PREFIX[kind]) else PREFIX[kind] + wish
        batch = self.processor([Message(role="user", parts=(Text(words), *media))], generate=True)
        batch["decoder_input_ids"] = torch.tensor([[self.model.tables.span(kind)[0]]])
        names = {*self.model.prepare_inputs.input_names, *(each.values for each in self.model.inputs.values())}  # type: ignore[union-attr]
        kept = {"input_ids", "attention_mask", "decoder_input_ids", *names}
        device = self.model.backbone.embed_tokens.weight.device
        return {name: x.to(device) for name, x in batch.items() if name in kept and x is not None}
