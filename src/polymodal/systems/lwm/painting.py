"""LWM writes pictures and videos: codes frame by frame behind a prompt, steered away from the prompt of nothing.

    <s>You are a helpful assistant. USER: Generate an image of {wish} ASSISTANT: <vision> -> 256 codes, mark -> pixels
    ... Generate a video of {wish} ASSISTANT: <vision>, the first frame's 257 ids -> 257 ids of each further frame

A picture is written with scale 5 among all codes, a video goes on from it with scale 1 among the 1000 best (official
script).  Traps: the mark behind each frame is the frame's end, also behind the last; the official code may draw one of
the 256 marks in the middle of a frame, here only codes are allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError
from polymodal.generation.grammars import Grid
from polymodal.generation.guidance import guided
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.two_table_lm import TwoTableLM
from polymodal.pipelines.image_generation import PaintRequest, Step, batch_of, unseen

PICTURE, VIDEO = SamplingOptions(temperature=1.0, top_k=8192), SamplingOptions(temperature=1.0, top_k=1000)
SCALES = {"image": 5.0, "video": 1.0}


@dataclass(frozen=True, kw_only=True)
class FramePainter:
    """rows: codes of a frame along each side.  before: tokens that the folder's tokenizer puts in front of a text."""

    model: TwoTableLM
    tokenizer: Tokenizer
    rows: int
    before: tuple[str, ...] = ()

    def __call__(self, request: PaintRequest) -> list[Tensor]:
        """uint8 [H, W, 3] of each picture.  Raises ConfigError for a size that the model cannot write."""
        request.require_no_steps()
        codec: Any = self.model.encoders["image"]
        side: int = self.rows * codec.config.stack.factor
        request.require_size(side, side)
        return [self.pixels(self.picture(request.text, seed, request.step))[0] for seed in request.seeds]

    def prompt(self, wish: str, kind: str) -> list[int]:
        """Ids behind which a picture ("image") or a video begins; of no wish the prompt of nothing."""
        asked = f"You are a helpful assistant. USER: Generate {kind} of {wish} ASSISTANT: <vision>"
        words = self.tokenizer.encode(asked if kind else "<vision>")
        return [*map(self.tokenizer.special, (*self.before, "<s>")), *words]

    def picture(self, wish: str, seed: int = 0, step: Step = unseen) -> list[int]:
        """The ids of one frame, its mark included."""
        options = replace(PICTURE, seed=seed)
        return self._frames((self.prompt(wish, "an image"), self.prompt("", "")), 1, SCALES["image"], options, step)

    def video(self, wish: str, frames: int = 8, seed: int = 0) -> Tensor:
        """uint8 [frames, H, W, 3]: the first frame is written as a picture, the others behind it."""
        if frames < 2:
            raise ConfigError(f"video: expected 2 frames or more, found {frames}; paint a picture instead")
        first = self.picture(wish, seed)
        prompts = [[*self.prompt(wish, "a video"), *first], [*self.prompt("", ""), *first]]
        options = replace(VIDEO, seed=seed)
        return self.pixels([*first, *self._frames(prompts, frames - 1, SCALES["video"], options, unseen)])

    def pixels(self, ids: Sequence[int]) -> Tensor:
        """Ids of whole frames -> uint8 [F, H, W, 3]."""
        codec: Any = self.model.encoders["image"]
        device = codec.codebook.embedding.weight.device
        codes = torch.tensor(ids, device=device).unflatten(0, (-1, self.rows**2 + 1))[:, :-1] - self.model.text
        with torch.no_grad():
            pixels = codec.decode(codes.unflatten(1, (self.rows, self.rows)))
        return ((pixels.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1)

    def _frames(
        self, prompts: Sequence[Sequence[int]], count: int, scale: float, options: SamplingOptions, step: Step
    ) -> list[int]:
        spelling: Any = self.model.connectors["image"]
        codes = spelling.vocabulary.ids("image")
        grid = Grid(height=count, width=self.rows**2, codes=codes, row_end=spelling.frame_end)
        room = self.model.backbone.config.max_length
        needed = max(map(len, prompts)) + grid.size
        if room is not None and needed > room:
            raise ConfigError(f"the frames and their text take {needed:,} ids, the model's context holds {room:,}")
        device = self.model.backbone.embed_tokens.weight.device
        batches = [{name: x.to(device) for name, x in batch_of([ids], 0).items()} for ids in prompts]
        constraints = DecodingConstraints(eos=frozenset(), allowed=[grid], placeholders=True)
        written: list[int] = []
        for piece in guided(
            self.model, batches, (scale, 1 - scale), replace(options, max_tokens=grid.size), constraints
        ):
            written.append(piece.id)
            step(len(written), grid.size)
        return written
