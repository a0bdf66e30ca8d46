"""Unified-IO: one encoder-decoder reads words and the patches of a picture, and writes words or the codes of another.

    pixel_values [N, P, values] (raw patches) -> connectors.image -> [N, P, D]
                                                    | at placeholders
    input_ids [B, S] -> backbone.embed -------------+-> backbone.encode -> Source
    decoder_input_ids [B, T]: 0, words ...  or  0, start of a picture, codes ... -> backbone -> hidden -> head
    target_pixel_values [B, 3, H, W] -> codec -> labels: the end, then a code for every cell

Unified-IO (arXiv 2206.08916).  Codes are the last ids of the one vocabulary; the id before them starts a picture.
Traps: a picture that is written stands behind one token of text (the start, whose label is the end); words and codes
are learned each among their own kind; the codec learns nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.backbones.encoder_decoder import Source
from polymodal.backbones.unified_io import UnifiedIOBackbone
from polymodal.errors import PromptError
from polymodal.generators.vq_codec import VQCodec
from polymodal.models.encoder_decoder_lm import EncoderDecoderLM
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.output import Output
from polymodal.nn.cache import KVCache
from polymodal.nn.losses import IGNORE, token_loss

END = 1


class HiddenPatches:
    """`image_input_masks` [N, P] (0: a patch that is not seen) becomes part of the attention mask."""

    input_names = frozenset({"image_input_masks", "target_pixel_values"})

    def __init__(self, placeholder: int) -> None:
        self.placeholder = placeholder

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def rewrite(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Raises PromptError where masks and placeholders differ in number."""
        result = dict(batch)
        masks = result.pop("image_input_masks", None)
        if masks is None:
            return result
        told = "image_input_masks: {} patches for {} placeholders"
        return result | {"attention_mask": with_seen(result, self.placeholder, masks, told)}


def with_seen(batch: Mapping[str, Any], placeholder: int, masks: Tensor, told: str) -> Tensor:
    """The attention mask [B, S] with `masks` (1: seen), in order, at the placeholders.

    Raises PromptError, `told` with both numbers, where there are not as many.
    """
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    places = ids == placeholder
    mask = torch.ones_like(ids) if mask is None else mask.long()
    if places.device.type == "cpu" and int(places.sum()) != masks.numel():
        raise PromptError(told.format(masks.numel(), int(places.sum())))
    return mask.masked_scatter(places, masks.contiguous().to(mask))


class UnifiedIO(EncoderDecoderLM):
    """connector: patches -> embeddings.  codec: of pictures that are written.  text: how many ids are words."""

    backbone: UnifiedIOBackbone  # type: ignore[assignment]

    def __init__(self, connector: nn.Module, backbone: UnifiedIOBackbone, codec: VQCodec, text: int) -> None:
        placeholder = backbone.config.vocab_size
        blocks: Any = backbone
        super().__init__({"image": nn.Identity()}, {"image": connector}, blocks, {"image": placeholder},
                         prepare_inputs=HiddenPatches(placeholder))  # fmt: skip
        self.codec = codec
        self.text = text
        with torch.device("cpu"):  # also where the model is built on the meta device: no weight
            self._words = torch.arange(text)

    def train(self, mode: bool = True) -> UnifiedIO:
        super().train(mode)
        self.codec.eval()
        return self

    def answer_rule(self, written: Sequence[int]) -> Tensor:
        """Ids that an answer may go on with: words, and the end alone where the decoder has no further place."""
        full = len(written) >= self.backbone.config.decoder_places.words - 1
        return self._words[END : END + 1] if full else self._words

    @property
    def picture_start(self) -> int:
        """The id behind which a picture is written."""
        return self.text - 1

    def prepare_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """As for EncoderDecoderLM; `target_pixel_values` become what the decoder reads and learns."""
        if "prompt" in batch:
            return dict(batch)
        given = dict(batch)
        if (target := given.pop("target_pixel_values", None)) is not None:
            given |= self.picture_targets(target)
        full = super().prepare_batch(given)
        full["position_ids"] = self.decoder_places(full["input_ids"], full.get("attention_mask"))
        return full

    def forward(self, *, cache: KVCache | None = None, return_logits: bool = True, **batch: Any) -> Output:
        """As EncoderDecoderLM; `target_pixel_values` [B, 3, H, W] in place of labels: pictures to be written."""
        if batch.get("target_pixel_values") is not None:
            self.check_names(batch)
            batch = {**batch, **self.picture_targets(batch["target_pixel_values"]), "target_pixel_values": None}
        return super().forward(cache=cache, return_logits=return_logits, **batch)

    @torch.no_grad()
    def picture_targets(self, pixels: Tensor) -> dict[str, Tensor]:
        """Pictures in -1..1 -> `decoder_input_ids` and `labels` [B, 1 + codes]."""
        codes = self.codec.encode(pixels).flatten(1) + self.text
        start = codes.new_tensor([self.backbone.config.start_id, self.picture_start]).expand(len(codes), 2)
        return {"decoder_input_ids": torch.cat((start, codes[:, :-1]), 1), "labels": F.pad(codes, (1, 0), value=END)}

    def decoder_places(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The places [B, T] of what the decoder reads: words, then a picture."""
        codes = ids >= self.picture_start
        real = torch.ones_like(ids) if mask is None else mask.long()
        words = ((real * ~codes).cumsum(-1) - 1).clamp_min(0)
        return torch.where(codes, self.backbone.config.decoder_places.words + codes.cumsum(-1) - 1, words)

    def context_for(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> Source:
        """Encoder output for the words and patches of the prompt."""
        prepared = self.prepare_batch(batch)
        prompt = {**prepared, **prepared["prompt"]}
        embeds = MultimodalLM.embed_inputs(self, prompt, features)
        ids, mask = prompt["input_ids"], prompt["attention_mask"]
        patches = ids == self.placeholders["image"]
        real = torch.ones_like(ids) if mask is None else mask.long()
        words, first = ((real * ~patches).cumsum(-1) - 1).clamp_min(0), self.backbone.config.encoder_places.words
        if words.device.type == "cpu" and int(words.max()) >= first:
            raise PromptError(
                f"messages: {int(words.max()) + 1} tokens of text for a limit of {first}; shorten the text"
            )
        # Columns of a row that has one picture; the numbers of another's would go on from it.
        places = torch.where(patches, first + patches.cumsum(-1) - 1, words)
        return self.backbone.encode(embeds, mask, places)

    def losses(self, hidden: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`language_model`: labels of words; `picture`: labels of codes; each among its own kind."""
        valid = batch["labels"] != IGNORE
        targets, logits = batch["labels"][valid], self.backbone.head(hidden[valid])
        drawn = targets >= self.text
        losses = {"language_model": token_loss(logits[~drawn][:, : self.text], targets[~drawn])}
        if bool(drawn.any()):
            losses["picture"] = token_loss(logits[drawn][:, self.text :], targets[drawn] - self.text)
        return losses

    @torch.no_grad()
    def pixels(self, ids: Tensor) -> Tensor:
        """Ids of codes [N, h * w] of square pictures -> pixels [N, 3, H, W] in about [-1, 1].

        Raises PromptError for an id that is no code, and for numbers of them that make no square.
        """
        codes, side = ids - self.text, round(ids.shape[-1] ** 0.5)
        count = self.codec.config.codes
        if ids.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < count:
            raise PromptError(f"codes of a picture must lie in 0..{count - 1}; found {int(codes.min())}.."
                              f"{int(codes.max())}")  # fmt: skip
        if side**2 != ids.shape[-1]:
            raise PromptError(f"a picture is a square of codes, found {ids.shape[-1]} of them")
        return self.codec.decode(codes.unflatten(-1, (side, side)))
