"""A class for a text about one or several pictures: entailment (SNLI-VE) and pairs (NLVR2) of ALBEF and BLIP.

    pixel_values [B, C, H, W] or [B, P, C, H, W] -> image -> states -> text encoder reads them -> first token -> head

Several pictures reach the blocks in one of two ways.  `turns` (ALBEF): cross-attending block i reads picture i mod P.
Otherwise (BLIP) every block gets all of them, [B, P, S, D], and its `cross` child joins them (fusion/picture_pair.py).
Traps: ALBEF's pairs have twice the upper blocks, of which each two neighbours share keys and values of cross-attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polymodal.backbones.encoder import TextEncoderConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.losses import classification_loss
from polymodal.nn.mask import MaskSpec

_INPUTS = ("pixel_values", "input_ids", "attention_mask")


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """`pictures` a text is about.  `turns`: cross-attending blocks take them in turn, from block `first` on;
    `shared`: neighbouring blocks share keys and values."""

    pictures: int = 1
    turns: bool = False
    first: int = 0
    shared: bool = False


class FusionClassifier(nn.Module):
    """See the module docstring; `classes` C.  `hidden` False: the head is one linear."""

    output_fields = frozenset({"logits", "hidden", "features"})

    def __init__(
        self,
        image: nn.Module,
        text: TextEncoderConfig,
        *,
        classes: int,
        reading: ReadingConfig,
        hidden: bool = True,
    ) -> None:
        super().__init__()
        width = text.width
        self.image = image
        self.text = text.build()
        self.reading = reading
        last = nn.Linear(width, classes)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), last) if hidden else last
        if reading.shared:
            for i in range(reading.first, len(self.text.blocks) - 1, 2):
                lower: Any = self.text.blocks[i].cross
                upper: Any = self.text.blocks[i + 1].cross
                lower.k_proj, lower.v_proj = upper.k_proj, upper.v_proj

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Picture states `[B * P, S, D']`, pictures of a row beside each other."""
        return {"image": self.image(self._pixels(_known(batch)).flatten(0, 1))}

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, C]`; labels `[B]`: classes."""
        given = _known(batch)
        if "input_ids" not in given:
            raise PromptError(f"FusionClassifier: expected input_ids, found {sorted(given)}")
        pixels = self._pixels(given)
        images = self.image(pixels.flatten(0, 1))
        states = images.unflatten(0, pixels.shape[:2])
        mask = MaskSpec(causal=False, attention_mask=given.get("attention_mask"))
        hidden = self._read(self.text.embed(given["input_ids"]), mask, states)
        logits = self.head(hidden[:, 0])
        loss = None if labels is None else classification_loss(logits, labels)
        losses = None if loss is None else {"classification": loss}
        return Output(logits=logits, hidden=hidden, features={"image": images}, loss=loss, losses=losses)

    def _read(self, x: Tensor, mask: MaskSpec, states: Tensor) -> Tensor:
        """The text's states after all blocks; states `[B, P, S, D']`."""
        if not self.reading.turns:
            return self.text.run(x, mask, source=states[:, 0] if self.reading.pictures == 1 else states)
        first = self.reading.first
        x = self.text.run(x, mask, layers=(0, first))
        for i in range(first, len(self.text.blocks)):
            x = self.text.run(x, mask, source=states[:, (i - first) % states.shape[1]], layers=(i, i + 1))
        return x

    def _pixels(self, batch: Mapping[str, Any]) -> Tensor:
        """`[B, P, C, H, W]`; raises PromptError for another number of pictures."""
        pixels, wanted = batch.get("pixel_values"), self.reading.pictures
        if pixels is None:
            raise PromptError(f"FusionClassifier: expected pixel_values, found {sorted(batch)}")
        pixels = pixels[:, None] if pixels.dim() == 4 else pixels
        if pixels.shape[1] != wanted:
            raise PromptError(f"FusionClassifier: expected {wanted} pictures a text, found {pixels.shape[1]}")
        return pixels


def _known(batch: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(given) - set(_INPUTS)):
        raise ConfigError(f"FusionClassifier: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return given
