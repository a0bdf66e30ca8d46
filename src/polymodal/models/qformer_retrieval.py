"""BLIP-2's first stage as a retrieval model (arXiv 2301.12597 section 3.2): image queries against texts.

    pixel_values -> encoders.image -> connectors.image (Q-Former) -> 32 queries -> image_proj -> normalise [N, Q, E]
    input_ids -> connectors.image.encode_text -> first token -> text_proj -> normalise [B, E]
    similarity [N, B] = maximum over the queries of an image;
    matching [B, 2] = mean of match_head over the queries, which attend to the text

Any of the three heads may be missing (image-only and text-only models).
Traps: published processors put one placeholder per query before the text; they are removed here (`placeholders`),
since the Q-Former adds the queries itself.  Similarities are not divided by a temperature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.connectors.qformer import QFormer, QFormerConfig
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output, total_loss
from polymodal.nn.linear import Linear
from polymodal.nn.losses import match_loss, negatives, pair_loss


@dataclass(frozen=True, kw_only=True)
class QFormerRetrievalConfig:
    """`encoder` None: text only.  `joint_width`: of the joint space.  `placeholders`: ids before each text to skip.

    `pooled` False: return a vector for every text token, as the text-only class on the hub does.
    """

    qformer: QFormerConfig
    encoder: ViTConfig | None = None
    joint_width: int = 256
    placeholders: int = 0
    images: bool = True
    texts: bool = True
    matching: bool = True
    pooled: bool = True

    def build(self) -> QFormerRetrieval:
        return QFormerRetrieval(self)


class QFormerRetrieval(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "embeddings"})

    def __init__(self, config: QFormerRetrievalConfig) -> None:
        super().__init__()
        self.config = config
        width = config.qformer.width
        self.encoders = nn.ModuleDict({} if config.encoder is None else {"image": config.encoder.build()})
        heads = {"image_proj": config.joint_width * config.images, "text_proj": config.joint_width * config.texts,
                 "match_head": 2 * config.matching}  # fmt: skip
        parts: dict[str, nn.Module] = {"image": config.qformer.build()}
        # The heads are connectors too, so that recipes that train `connectors` train them.
        self.connectors = nn.ModuleDict(parts | {name: Linear(width, out) for name, out in heads.items() if out})

    @property
    def _qformer(self) -> QFormer:
        qformer = self.connectors["image"]
        assert isinstance(qformer, QFormer)
        return qformer

    def features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **other: Any,
    ) -> dict[str, Tensor]:
        """Unit vectors: image [N, Q, E], text [B, E] (or of each token [B, T, E])."""
        _check_other_inputs(other)
        image = None if pixel_values is None else self.image_states(pixel_values)
        return self.vectors(image, input_ids, attention_mask)

    def vectors(
        self, image: Tensor | None, input_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`features` from image states [N, S, D'] of `image_states`."""
        vectors = {}
        if image is not None:
            vectors["image"] = self._project("image_proj", self._qformer(image))
        if input_ids is not None:
            ids, mask = self._skip_placeholders(input_ids, attention_mask)
            states = self._qformer.encode_text(ids, mask)
            vectors["text"] = self._project("text_proj", states[:, 0] if self.config.pooled else states)
        return vectors

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_image_text_matching_head: bool = False,
        return_loss: bool = False,
        **other: Any,
    ) -> Output:
        """embeddings by modality; with both, logits: similarity [N, B], or match logits of each pair [B, 2] with
        `use_image_text_matching_head`.

        return_loss: contrastive loss at temperature 0.07, and match loss with hard negatives if there is a match head.
        """
        _check_other_inputs(other)
        if use_image_text_matching_head and pixel_values is not None and input_ids is not None:
            return Output(logits=self.matching(pixel_values, input_ids, attention_mask))
        image = None if pixel_values is None else self.image_states(pixel_values)
        vectors = self.vectors(image, input_ids, attention_mask)
        if image is None or input_ids is None or len(vectors) < 2:
            return Output(embeddings=vectors)
        # [N, Q, E] x [B, E] -> [N, B], maximum over the queries
        logits = (vectors["image"] @ vectors["text"].T).amax(1)
        if not return_loss:
            return Output(logits=logits, embeddings=vectors)
        losses = {"contrastive": pair_loss(logits / 0.07)}
        if "match_head" in self.connectors:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            texts, images = negatives(logits / 0.07, floor=1e-4), negatives(logits.T / 0.07, floor=1e-4)
            all_images = torch.cat((image, image[images], image))
            ids, masks = torch.cat((input_ids, input_ids, input_ids[texts])), torch.cat((mask, mask, mask[texts]))
            losses["match"] = match_loss(self.match_logits(all_images, ids, masks), len(input_ids))
        return Output(logits=logits, embeddings=vectors, loss=total_loss(losses), losses=losses)

    def matching(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Match logits [B, 2] (no, yes) of image i and text i."""
        return self.match_logits(self.image_states(pixel_values), input_ids, attention_mask)

    def match_logits(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """`matching` from image states [B, S, D']."""
        if "match_head" not in self.connectors:
            raise ConfigError("this model has no matching head")
        ids, mask = self._skip_placeholders(input_ids, attention_mask)
        return self.connectors["match_head"](self._qformer(image, ids, mask)).mean(1)

    def caption_states(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """States [B, T, D] of texts without placeholders that attend causally, and to the queries of their image.

        image: image states [B, S, D'].
        """
        return self._qformer.caption_states(image, input_ids, attention_mask)

    def word_logits(self, states: Tensor) -> Tensor:
        """States [..., D] -> logits [..., V] with the tied word embeddings; raises PromptError without a vocabulary."""
        if self._qformer.words is None:
            raise PromptError("this Q-Former takes no text: it was built without a vocabulary")
        return F.linear(states, self._qformer.words.weight)

    def image_states(self, pixel_values: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> states [N, S, D'] for cross-attention of the queries."""
        if "image" not in self.encoders:
            raise PromptError("this model takes text; found image")
        return self.encoders["image"](pixel_values)

    def _skip_placeholders(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Ids and mask [B, T] without the leading placeholders."""
        count = self.config.placeholders
        return ids[:, count:], None if mask is None else mask[:, count:]

    def _project(self, head: str, states: Tensor) -> Tensor:
        if head not in self.connectors:
            raise PromptError(f"this model has no {head}: it does not take this modality")
        return F.normalize(self.connectors[head](states), dim=-1)


def _check_other_inputs(other: dict[str, Any]) -> None:
    """Raises ConfigError for unknown inputs; accepts those of published processors that have no effect here."""
    for name, value in other.items():
        if value is not None and name not in ("token_type_ids", "labels", "interpolate_pos_encoding"):
            raise ConfigError(f"QFormerRetrieval: does not know the input {name!r}")
