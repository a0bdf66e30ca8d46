"""BLIP-2's first stage as a retrieval model (arXiv 2301.12597 section 3.2): queries of a picture against texts.

    pixel_values -> encoders.image -> connectors.image (Q-Former) -> 32 queries -> image_proj -> unit length [N, Q, E]
    input_ids -> connectors.image.read -> first token -> text_proj -> unit length [B, E]
    similarity [N, B] = the best of a picture's queries with each text;    matching [B, 2] = the mean over the queries,
    read together with the text, of match_head

Any of the three heads may be missing (a model of pictures alone, of texts alone).
Traps: published processors write one placeholder per query before the text; they are cut off here (`lead`) and only
stand for the queries in the joint attention mask.  Similarities are not divided by a temperature.
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
from polymodal.models.output import Output, total
from polymodal.nn.linear import Linear
from polymodal.nn.losses import match_loss, negatives, pair_loss


@dataclass(frozen=True, kw_only=True)
class QFormerRetrievalConfig:
    """`encoder` None: texts only.  `joint_width`: of the space.  `lead`: placeholders before each text.

    `pooled` False: every token of a text gets a vector, as the hub's text-only class gives them.
    """

    qformer: QFormerConfig
    encoder: ViTConfig | None = None
    joint_width: int = 256
    lead: int = 0
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
        # Beside the Q-Former, so that a recipe that trains the connectors trains them too.
        self.connectors = nn.ModuleDict(parts | {name: Linear(width, out) for name, out in heads.items() if out})

    @property
    def _qformer(self) -> QFormer:
        found = self.connectors["image"]
        assert isinstance(found, QFormer)
        return found

    def features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **more: Any,
    ) -> dict[str, Tensor]:
        """Vectors of unit length: image [N, Q, E], text [B, E] (or of each token [B, T, E])."""
        _only(more)
        image = None if pixel_values is None else self.image_states(pixel_values)
        return self.vectors(image, input_ids, attention_mask)

    def vectors(
        self, image: Tensor | None, input_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`features` from picture states [N, S, D'] of `image_states`."""
        found = {}
        if image is not None:
            found["image"] = self._unit("image_proj", self._qformer(image))
        if input_ids is not None:
            ids, mask = self._behind(input_ids, attention_mask)
            states = self._qformer.encode_text(ids, mask)
            found["text"] = self._unit("text_proj", states[:, 0] if self.config.pooled else states)
        return found

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_image_text_matching_head: bool = False,
        return_loss: bool = False,
        **more: Any,
    ) -> Output:
        """embeddings of what is there; with both, logits: similarity [N, B], or with `use_image_text_matching_head` the
        two match logits of each pair [B, 2].

        return_loss: contrast of the pairs at a temperature of 0.07, and the match of true pairs with hard negatives
        where there is a head for it.
        """
        _only(more)
        if use_image_text_matching_head and pixel_values is not None and input_ids is not None:
            return Output(logits=self.matching(pixel_values, input_ids, attention_mask))
        image = None if pixel_values is None else self.image_states(pixel_values)
        found = self.vectors(image, input_ids, attention_mask)
        if image is None or input_ids is None or len(found) < 2:
            return Output(embeddings=found)
        # [N, Q, E] x [B, E] -> [N, B], the best of a picture's queries with each text
        logits = (found["image"] @ found["text"].T).amax(1)
        if not return_loss:
            return Output(logits=logits, embeddings=found)
        losses = {"contrastive": pair_loss(logits / 0.07)}
        if "match_head" in self.connectors:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            texts, images = negatives(logits / 0.07, floor=1e-4), negatives(logits.T / 0.07, floor=1e-4)
            every = torch.cat((image, image[images], image))
            ids, kept = torch.cat((input_ids, input_ids, input_ids[texts])), torch.cat((mask, mask, mask[texts]))
            losses["match"] = match_loss(self.match_logits(every, ids, kept), len(input_ids))
        return Output(logits=logits, embeddings=found, loss=total(losses), losses=losses)

    def matching(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, 2] of "does not belong" and "belongs" for picture i and text i."""
        return self.match_logits(self.image_states(pixel_values), input_ids, attention_mask)

    def match_logits(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """`matching` from picture states [B, S, D']."""
        if "match_head" not in self.connectors:
            raise ConfigError("this model has no matching head")
        ids, mask = self._behind(input_ids, attention_mask)
        return self.connectors["match_head"](self._qformer(image, ids, mask)).mean(1)

    def write(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """States [B, T, D] of texts that see their picture's queries and the words before them; no placeholders.

        image: picture states [B, S, D'].
        """
        return self._qformer.write(image, input_ids, attention_mask)

    def word_logits(self, states: Tensor) -> Tensor:
        """[..., D] -> products with the embedding of every word [..., V]; raises PromptError without one."""
        if self._qformer.words is None:
            raise PromptError("this Q-Former takes no text: it was built without a vocabulary")
        return F.linear(states, self._qformer.words.weight)

    def image_states(self, pixel_values: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] -> what the queries read [N, S, D']."""
        if "image" not in self.encoders:
            raise PromptError("this model takes text; found image")
        return self.encoders["image"](pixel_values)

    def _behind(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Ids and mask [B, T] without the placeholders in front."""
        lead = self.config.lead
        return ids[:, lead:], None if mask is None else mask[:, lead:]

    def _unit(self, head: str, states: Tensor) -> Tensor:
        if head not in self.connectors:
            raise PromptError("this model has no projection for what it was given")
        return F.normalize(self.connectors[head](states), dim=-1)


def _only(more: dict[str, Any]) -> None:
    """Refuse tensors nobody reads; segments of the text are zeros to a Q-Former and are let through."""
    for name, value in more.items():
        if value is not None and name not in ("token_type_ids", "labels", "interpolate_pos_encoding"):
            raise ConfigError(f"QFormerRetrieval: does not know the input {name!r}")
