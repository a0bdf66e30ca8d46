"""Unified-IO 2: words, a picture, earlier pictures, sound and earlier sounds in; words, a picture or sound out.

    pixel_values [N, P, 768]      -> encoders.image, last and second block -> connectors.image -> [N, P, D]
    history_values [F, P', 768]   -> encoders.image, last block -> connectors.image_history -> [F, L, D]
    audio_values, segment_values  -> encoders.audio -> connectors.audio, connectors.audio_history
                                                          | at placeholders
    input_ids [B, S] -> backbone.embed -------------------+-> backbone.encode -> source
    decoder_input_ids [B, T]: 0, words | start of pictures, codes | start of sounds, codes -> backbone -> head
    target_pixel_values [B, 3, H, W] | target_spectrograms [B, 1, M, T] -> codec -> what is read and learned

Paper: arXiv 2312.17172.  Three vocabularies lie in one table: words, pictures, sounds; of each of the last two
the first id starts, the second is unused, codes begin at the third.
Traps: codes of sound are written by time, the codec has them by pitch; the places of those codes count the codec's grid
row by row all the same; each kind is learned among its own ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.unified_io_2 import PlacedSource, UnifiedIO2Backbone
from polymodal.errors import PromptError
from polymodal.generators.vit_vq_codec import ViTVQCodec
from polymodal.generators.vq_codec import VQCodec
from polymodal.models.encoder_decoder_lm import EncoderDecoderLM
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.models.output import Output
from polymodal.models.unified_io import with_seen
from polymodal.nn.cache import KVCache
from polymodal.nn.losses import IGNORE, token_loss

END, FIRST_CODE = 1, 2
# modality -> its values, which of them are seen, and whose encoder it uses
SEEN = {
    "image": ("pixel_values", "image_input_masks", "image"),
    "image_history": ("history_values", "history_masks", "image"),
    "audio": ("audio_values", "audio_input_masks", "audio"),
    "audio_history": ("segment_values", "segment_masks", "audio"),
}
TARGETS = {"image": "target_pixel_values", "audio": "target_spectrograms"}


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Ids of words, of pictures and of sounds, one behind another."""

    text: int
    image: int
    audio: int

    def span(self, kind: str) -> tuple[int, int]:
        """The first id of a kind, and the first behind it."""
        first = {"text": 0, "image": self.text, "audio": self.text + self.image}[kind]
        return first, first + getattr(self, kind)


class SeenTokens:
    """Which placeholders are seen, from the masks of patches, as part of the attention mask.

    latents: features of a frame or sound, by modality; it is seen where any of its patches is.
    """

    input_names = frozenset({*(mask for _, mask, _ in SEEN.values()), *TARGETS.values()})

    def __init__(self, placeholders: Mapping[str, int], latents: Mapping[str, int]) -> None:
        self.placeholders, self.latents = placeholders, latents

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def rewrite(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Raises PromptError where masks and placeholders differ in number."""
        result = dict(batch)
        for name, (_, key, _) in SEEN.items():
            if (masks := result.get(key)) is None:
                continue
            if name in self.latents:
                masks = masks.any(-1, keepdim=True).expand(-1, self.latents[name])
            told = f"{key}: {{}} features for {{}} placeholders of {name}"
            result["attention_mask"] = with_seen(result, self.placeholders[name], masks, told)
        return result


class UnifiedIO2(EncoderDecoderLM):
    """grids: rows and columns of patches, by modality.  codecs: of pictures and sounds that are written."""

    backbone: UnifiedIO2Backbone  # type: ignore[assignment]

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        connectors: Mapping[str, nn.Module],
        backbone: UnifiedIO2Backbone,
        codecs: tuple[VQCodec, ViTVQCodec],
        tables: Tables,
        grids: Mapping[str, tuple[int, int]],
    ) -> None:
        size = backbone.config.vocab_size
        placeholders = {name: size + index for index, name in enumerate(SEEN)}
        resamplers: Any = {name: each for name, each in connectors.items() if name.endswith("history")}
        latents: dict[str, int] = {name: each.config.latents for name, each in resamplers.items()}
        inputs = {name: ModalityInputs(values=values) for name, (values, _, _) in SEEN.items()}
        blocks: Any = backbone
        both = {name: nn.Identity() for name in SEEN} | dict(encoders)
        super().__init__(both, connectors, blocks, placeholders, inputs=inputs,
                         prepare_inputs=SeenTokens(placeholders, latents))  # fmt: skip
        self.codecs = nn.ModuleDict({"image": codecs[0], "audio": codecs[1]})
        self.tables, self.grids = tables, dict(grids)
        with torch.device("cpu"):  # also where the model is built on the meta device: no weight
            self._words = torch.arange(tables.text)

    def train(self, mode: bool = True) -> UnifiedIO2:
        super().train(mode)
        self.codecs.eval()
        return self

    def answer_rule(self, written: Sequence[int]) -> Tensor:
        """Ids that an answer may go on with: words, and the end alone where the decoder has no further place."""
        full = len(written) >= self.backbone.config.decoder_kinds[0].rows - 1
        return self._words[END : END + 1] if full else self._words

    def encode(self, modality: str, batch: Mapping[str, Any]) -> Any:
        """Features of one modality [N, Q, D]."""
        if modality not in SEEN:
            return super().encode(modality, batch)
        values, masks, side = SEEN[modality]
        mask = batch.get(masks)
        last, second = self.encoders[side](batch[values], mask, self.grids[modality])
        if modality == side:
            return self.connectors[modality](torch.cat((last, second), -1))
        return self.connectors[modality](last, mask)

    def prepare_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """As for EncoderDecoderLM; targets become what the decoder reads and learns."""
        if "prompt" in batch:
            return dict(batch)
        full = super().prepare_batch(self._with_targets(batch))
        full["position_ids"] = self.decoder_places(full["input_ids"], full.get("attention_mask"))
        return full

    def forward(self, *, cache: KVCache | None = None, return_logits: bool = True, **batch: Any) -> Output:
        """As EncoderDecoderLM; pictures in -1..1 or spectrograms to be written in place of labels."""
        self.check_names(batch)
        return super().forward(cache=cache, return_logits=return_logits, **self._with_targets(batch))

    def _with_targets(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(batch)
        for kind, key in TARGETS.items():
            if (target := given.pop(key, None)) is not None:
                given |= self.targets(kind, target)
        return given

    @torch.no_grad()
    def targets(self, kind: str, values: Tensor) -> dict[str, Tensor]:
        """Pictures or spectrograms -> `decoder_input_ids` and `labels` [B, codes]."""
        codec: Any = self.codecs[kind]
        codes = codec.encode(values)
        first = self.tables.span(kind)[0]
        codes = (codes if kind == "image" else codes.transpose(1, 2)).flatten(1) + first + FIRST_CODE
        start = codes.new_full((len(codes), 1), first)
        return {"decoder_input_ids": torch.cat((start, codes[:, :-1]), 1), "labels": codes}

    @torch.no_grad()
    def written(self, kind: str, ids: Tensor) -> Tensor:
        """Ids of a whole picture or sound [N, codes] -> pixels [N, 3, H, W] or a spectrogram [N, 1, M, T].

        Raises PromptError for ids that are no codes, and for another number of them.
        """
        codec: Any = self.codecs[kind]
        rows, columns = self.grid(kind)
        codes, count = ids - self.tables.span(kind)[0] - FIRST_CODE, codec.config.codes
        if ids.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < count:
            raise PromptError(f"codes of {kind} must lie in 0..{count - 1}; found {int(codes.min())}.."
                              f"{int(codes.max())}")  # fmt: skip
        if ids.shape[-1] != rows * columns:
            raise PromptError(f"{kind}: expected {rows * columns} codes, found {ids.shape[-1]}")
        codes = codes.unflatten(-1, (rows, columns))
        return codec.decode(codes if kind == "image" else codes.transpose(1, 2))

    def grid(self, kind: str) -> tuple[int, int]:
        """Rows and columns of codes in the order in which they are written."""
        if kind == "image":
            side = self.backbone.config.decoder_kinds[1]
            return side.rows, side.columns
        codec: Any = self.codecs["audio"]
        high, wide = codec.config.grid
        return wide, high

    def decoder_places(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The places [B, T] of what the decoder reads: of each kind its own, counted along the row."""
        real = torch.ones_like(ids) if mask is None else mask.long()
        places, firsts = torch.zeros_like(ids), self.backbone.decoder_places.firsts
        for kind in ("text", *TARGETS):
            first, last = self.tables.span(kind)
            own = (ids >= first) & (ids < last)
            counted = (own.long() * real).cumsum(-1) - 1
            places = torch.where(own, firsts[kind] + counted.clamp_min(0), places)
        return places

    def context_for(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> PlacedSource:
        """Encoder output for the words and features of the prompt."""
        prepared = self.prepare_batch(batch)
        prompt = {**prepared, **prepared["prompt"]}
        ids, mask = prompt["input_ids"], prompt["attention_mask"]
        embeds = MultimodalLM.embed_inputs(self, prompt, features)
        return self.backbone.encode(embeds, mask, self.encoder_places(ids, mask))

    def encoder_places(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The places [B, S] of a prompt.  Raises PromptError for more of a kind than there are."""
        real = torch.ones_like(ids) if mask is None else mask.long()
        kinds, firsts = self.backbone.config.encoder_kinds, self.backbone.encoder_places.firsts
        owns = {name: ids == id for name, id in self.placeholders.items()}
        owns["text"] = ids < self.backbone.config.vocab_size
        places = torch.zeros_like(ids)
        for kind in kinds:
            own = owns[kind.name]
            counted = ((own.long() if kind.name != "text" else own * real).cumsum(-1) - 1).clamp_min(0)
            if counted.device.type == "cpu" and int(counted.max()) >= kind.count:
                raise PromptError(
                    f"messages: {int(counted.max()) + 1} tokens of {kind.name} for a limit of {kind.count}"
                )
            places = torch.where(own, firsts[kind.name] + counted, places)
        return places

    def losses(self, hidden: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`language_model`, `image` and `audio`: labels of each kind, learned among their own ids."""
        valid = batch["labels"] != IGNORE
        targets, logits = batch["labels"][valid], self.backbone.head(hidden[valid])
        losses = {}
        for kind, name in (("text", "language_model"), *((each, each) for each in TARGETS)):
            first, last = self.tables.span(kind)
            own = (targets >= first) & (targets < last)
            if kind == "text" or bool(own.any()):
                losses[name] = token_loss(logits[own][:, first:last], targets[own] - first)
        return losses
