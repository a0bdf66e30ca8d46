"""Pictures and sounds that Unified-IO 2 writes: code by code behind a prompt, pictures steered away from any.

"[Image] [S] " + a description -> codes, drawn from the likeliest 90% -> VQGAN -> pixels
guidance: (1 + s) log p(code | description) - s log p(code | "An image of a random picture."), s = 10
"[Audio] [S] " + a description -> 512 codes -> ViT-VQGAN -> the logarithm of a mel spectrogram, [128, 256]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymodal.data.encoder_decoder_processor import EncoderDecoderProcessor
from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.generation.generate import generate
from polymodal.generation.grammars import Grid
from polymodal.generation.guidance import guided
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.unified_io_2 import FIRST_CODE, UnifiedIO2
from polymodal.pipelines.image_generation import PaintRequest

PREFIX = {"text": "[Text] [S] ", "image": "[Image] [S] ", "audio": "[Audio] [S] "}
NOTHING, SCALE = "An image of a random picture.", 10.0
SOUND_MEAN, SOUND_STD = -5.0945, 3.8312


@dataclass(frozen=True, kw_only=True)
class CodePainter:
    """See the module docstring."""

    model: UnifiedIO2
    processor: EncoderDecoderProcessor
    sees: bool = True

    def __call__(self, request: PaintRequest) -> list[Tensor]:
        """uint8 [H, W, 3] of each seed.  Raises ConfigError for a size that the model cannot write."""
        request.require_no_steps()
        rows, columns = self.model.grid("image")
        codec: Any = self.model.codecs["image"]
        request.require_size(columns * codec.config.stack.factor, rows * codec.config.stack.factor)
        media = [part for part in request.parts if isinstance(part, Media) and not isinstance(part, Text)]
        found, whole = [], rows * columns * len(request.seeds)
        for number, seed in enumerate(request.seeds):
            options = SamplingOptions(temperature=1.0, top_p=0.9, seed=seed, max_tokens=rows * columns)
            ids = self.codes("image", request.text, options, media)
            request.step((number + 1) * rows * columns, whole)
            pixels = self.model.written("image", ids)[0].clamp(-1, 1)
            found.append(((pixels + 1) * 127.5).to(torch.uint8).permute(1, 2, 0))
        return found

    def spectrogram(self, wish: str, seed: int = 0) -> Tensor:
        """The power of a mel spectrogram [128, 256] of the sound that is wished."""
        rows, columns = self.model.grid("audio")
        options = SamplingOptions(temperature=1.0, top_p=0.9, seed=seed, max_tokens=rows * columns)
        logs = self.model.written("audio", self.codes("audio", wish, options))[0, 0]
        return (logs * SOUND_STD + SOUND_MEAN).exp()

    def codes(
        self, kind: str, wish: str, options: SamplingOptions, media: Sequence[Media] = (), scale: float = SCALE
    ) -> Tensor:
        """The ids of a picture or sound [1, codes]; scale: of guidance, for pictures from words alone."""
        rows, columns = self.model.grid(kind)
        codec: Any = self.model.codecs[kind]
        first = self.model.tables.span(kind)[0] + FIRST_CODE
        grid = Grid(height=rows, width=columns, codes=torch.arange(first, first + codec.config.codes))
        rules = DecodingConstraints(eos=frozenset(), allowed=[grid], allow_past_context=True, placeholders=True)
        batch = self.batch(kind, wish, media)
        if kind == "image" and not media and scale:
            both = [batch, self.batch(kind, NOTHING)]
            ids = [piece.id for piece in guided(self.model, both, (1 + scale, -scale), options, rules)]
        else:
            ids = list(generate(self.model, batch, options, rules)[0].ids)
        return torch.tensor([ids], device=batch["input_ids"].device)

    def batch(self, kind: str, wish: str, media: Sequence[Media] = ()) -> dict[str, Any]:
        """The batch behind whose start a picture or sound is written."""
        words = wish if wish.startswith(PREFIX[kind]) else PREFIX[kind] + wish
        batch = self.processor([Message(role="user", parts=(Text(words), *media))], generate=True)
        batch["decoder_input_ids"] = torch.tensor([[self.model.tables.span(kind)[0]]])
        names = {*self.model.prepare_inputs.input_names, *(each.values for each in self.model.inputs.values())}  # type: ignore[union-attr]
        kept = {"input_ids", "attention_mask", "decoder_input_ids", *names}
        device = self.model.backbone.embed_tokens.weight.device
        return {name: x.to(device) for name, x in batch.items() if name in kept and x is not None}
