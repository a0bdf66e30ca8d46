"""Classifies a text about one or several images: entailment (SNLI-VE) and image pairs (NLVR2) of ALBEF and BLIP.

    pixel_values [B, C, H, W] or [B, P, C, H, W] -> image -> states -> text encoder with cross-attention -> first token
    -> head

Several images reach the blocks in one of two ways.  `alternate` (ALBEF): cross-attention block i gets image i mod P.
Otherwise (BLIP) every block gets all of them, [B, P, S, D], and its `cross` child merges them (fusion/picture_pair.py).
Traps: ALBEF's pair model has twice the upper blocks; each two neighbours share cross-attention keys and values.
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
class ImageFusionConfig:
    """`images`: per text.  `alternate`: cross-attention blocks take the images in turn, from block `first_block` on.

    `share_kv`: neighbouring blocks share cross-attention keys and values.
    """

    images: int = 1
    alternate: bool = False
    first_block: int = 0
    share_kv: bool = False


class FusionClassifier(nn.Module):
    """See the module docstring; `classes`: C.  `hidden` False: the head is one linear."""

    output_fields = frozenset({"logits", "hidden", "features"})

    def __init__(
        self,
        image: nn.Module,
        text: TextEncoderConfig,
        *,
        classes: int,
        fusion: ImageFusionConfig,
        hidden: bool = True,
    ) -> None:
        super().__init__()
        width = text.width
        self.image = image
        self.text = text.build()
        self.fusion = fusion
        last = nn.Linear(width, classes)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), last) if hidden else last
        if fusion.share_kv:
            for i in range(fusion.first_block, len(self.text.blocks) - 1, 2):
                lower: Any = self.text.blocks[i].cross
                upper: Any = self.text.blocks[i + 1].cross
                lower.k_proj, lower.v_proj = upper.k_proj, upper.v_proj

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Image states `[B * P, S, D']`, the images of a row consecutive."""
        return {"image": self.image(self._pixels(_check_inputs(batch)).flatten(0, 1))}

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, C]`; labels int64 `[B]`: classes."""
        inputs = _check_inputs(batch)
        if "input_ids" not in inputs:
            raise PromptError(f"FusionClassifier: expected input_ids, found {sorted(inputs)}")
        pixels = self._pixels(inputs)
        images = self.image(pixels.flatten(0, 1))
        states = images.unflatten(0, pixels.shape[:2])
        mask = MaskSpec(causal=False, attention_mask=inputs.get("attention_mask"))
        hidden = self._fuse(self.text.embed(inputs["input_ids"]), mask, states)
        logits = self.head(hidden[:, 0])
        loss = None if labels is None else classification_loss(logits, labels)
        losses = None if loss is None else {"classification": loss}
        return Output(logits=logits, hidden=hidden, features={"image": images}, loss=loss, losses=losses)

    def _fuse(self, x: Tensor, mask: MaskSpec, states: Tensor) -> Tensor:
        """Text states after all blocks; states: image states `[B, P, S, D']`."""
        if not self.fusion.alternate:
            return self.text.run(x, mask, source=states[:, 0] if self.fusion.images == 1 else states)
        first = self.fusion.first_block
        x = self.text.run(x, mask, layers=(0, first))
        for i in range(first, len(self.text.blocks)):
            x = self.text.run(x, mask, source=states[:, (i - first) % states.shape[1]], layers=(i, i + 1))
        return x

    def _pixels(self, batch: Mapping[str, Any]) -> Tensor:
        """`[B, P, C, H, W]`; raises PromptError for another number of images."""
        pixels, expected = batch.get("pixel_values"), self.fusion.images
        if pixels is None:
            raise PromptError(f"FusionClassifier: expected pixel_values, found {sorted(batch)}")
        pixels = pixels[:, None] if pixels.dim() == 4 else pixels
        if pixels.shape[1] != expected:
            raise PromptError(f"FusionClassifier: expected {expected} images per text, found {pixels.shape[1]}")
        return pixels


def _check_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without None values; raises ConfigError for unknown inputs."""
    inputs = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(inputs) - set(_INPUTS)):
        raise ConfigError(f"FusionClassifier: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return inputs
