"""The joints of one person in a picture, as Unified-IO 2's official code asks for them: every joint is guessed.

    "Find the visible human joints in the region " + the person's box as four tokens, the picture
    -> for each of seventeen names in turn: two locations that the model chooses, then the name itself -> `Pose`

Trap: in training, joints that are hidden were not told, so a free answer leaves them out; here all are `seen`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from polymodal.data.media import Image
from polymodal.data.normalise import Picture, as_picture
from polymodal.errors import ConfigError
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.unified_io_2 import END
from polymodal.pipelines.grounding import Box, Pose
from polymodal.systems.unified_io_2.painting import CodePainter
from polymodal.systems.unified_io_2.places import BINS, FIRST, JOINTS, read_pose, region_text
from polymodal.systems.unified_io_2.processing import PATCH

QUESTION = 'Find the visible human joints in the region " {} ".'
PLACE = re.compile(r"\s*(<extra_id_\d+>)\s*")  # not every vocabulary writes spaces around its names
MOST = 128  # tokens of a free answer


@dataclass(frozen=True, kw_only=True)
class PoseReader:
    """`PoseReader(model=loaded.module, processor=loaded.processor)(photo, box)`"""

    model: Any
    processor: Any

    @cached_property
    def steps(self) -> tuple[Tensor, ...]:
        """The ids that each place of a forced answer may hold.

        Raises ConfigError for a vocabulary without locations, and for a decoder that is too short.
        """
        tokenizer = self.processor.tokenizer
        places = [tokenizer.encode(f"<extra_id_{FIRST + number}>") for number in range(BINS)]
        if any(len(each) != 1 for each in places):
            raise ConfigError(f"the vocabulary has no locations <extra_id_{FIRST}> to <extra_id_{FIRST + BINS - 1}>")
        rows = self.model.backbone.config.decoder_kinds[0].rows
        where = torch.tensor(places)[:, 0]
        found: list[Tensor] = []
        for name in JOINTS:
            found += [where, where, *(torch.tensor([id]) for id in tokenizer.encode(name))]
        if len(found) >= rows:
            raise ConfigError(f"seventeen joints take {len(found)} tokens, the decoder has {rows} places for words")
        return (*found, torch.tensor([END]))

    def allowed(self, written: Any) -> Tensor | None:
        """Ids behind what is written of a forced answer."""
        return self.steps[len(written)] if len(written) < len(self.steps) else None

    def __call__(self, picture: Picture, box: Box = (0, 0, 1, 1), *, forced: bool = True) -> Pose | None:
        """box: the person's, in 0..1 of the picture.  forced: all joints are told; else those that the model tells.

        Raises PromptError for a box outside of the picture.  None where a free answer tells no joint.
        """
        seen = as_picture(picture)
        side = self.model.grids["image"][0] * PATCH
        painter = CodePainter(model=self.model, processor=self.processor)
        words = QUESTION.format(region_text(box, seen.size, side))
        rules = DecodingConstraints(eos=frozenset({END}), allowed=self.allowed if forced else self.model.answer_rule)
        options = SamplingOptions(temperature=0.0, max_tokens=len(self.steps) if forced else MOST)
        (answer,) = generate(self.model, painter.batch("text", words, [Image(seen)]), options, rules)
        text = self.processor.tokenizer.decode([id for id in answer.ids if id != END])
        return read_pose(PLACE.sub(r" \1 ", text).replace("  ", " "), seen.size, side)
