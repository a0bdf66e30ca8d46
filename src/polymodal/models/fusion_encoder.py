"""Image and text compared twice: cheaply in a joint space, and by a text encoder that reads the image.

    pixel_values -> image -> states [N, S, D'] -> class token -> image_proj -> [N, E]  --+ cosine: a shortlist
    input_ids -> text, blocks 0 .. text_layers, no source -> first token -> text_proj -> [B, E] --+
    input_ids -> text, all blocks, source = image states -> first token -> match -> [B, 2]   the final score
                                                         -> token_head -> [B, T, V]          masked words

ALBEF (arXiv 2107.07651): only the upper blocks cross-attend, the lower ones (text_layers = 6) are the text encoder.
BLIP (arXiv 2201.12086): every block cross-attends, and is a text encoder when it is given no source.
Traps: match scores are logits of (no, yes); joint vectors are not of unit length; ALBEF's `temperature` divides, it is
not the logarithm of a factor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.backbones.encoder import TextEncoderConfig, TokenHeadConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output, total
from polymodal.nn.losses import masked_token_loss, match_loss, negatives, pair_loss
from polymodal.nn.mask import MaskSpec


@dataclass(frozen=True, kw_only=True)
class JointConfig:
    """The joint space: `width` E; `temperature`: start of a divisor that is trained, None = the file has none."""

    width: int = 256
    temperature: float | None = None


class FusionEncoder(nn.Module):
    """See the module docstring.  `text_layers` None: all blocks make the text-only states."""

    output_fields = frozenset({"logits", "embeddings", "features"})

    def __init__(
        self,
        image: nn.Module,
        text: TextEncoderConfig,
        *,
        image_width: int,
        joint: JointConfig,
        text_layers: int | None = None,
        token_head: TokenHeadConfig | None = None,
    ) -> None:
        super().__init__()
        self.image = image
        self.text = text.build()
        self.image_proj = nn.Linear(image_width, joint.width)
        self.text_proj = nn.Linear(text.width, joint.width)
        self.match = nn.Linear(text.width, 2)
        self.token_head = None if token_head is None else token_head.build()
        self.temperature = None if joint.temperature is None else nn.Parameter(torch.tensor([joint.temperature]))
        self.text_layers = len(text.blocks) if text_layers is None else text_layers

    def read(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Text alone -> states `[B, T, D]` after `text_layers` blocks."""
        mask = MaskSpec(causal=False, attention_mask=attention_mask)
        return self.text.run(self.text.embed(input_ids), mask, layers=(0, self.text_layers))

    def fuse(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Image states `[B, S, D']` and text, row by row -> `[B, T, D]` after all blocks."""
        mask = MaskSpec(causal=False, attention_mask=attention_mask)
        return self.text.run(self.text.embed(input_ids), mask, source=image)

    def fuse_states(self, image: Tensor, text: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Like `fuse`, from text-only states `[B, T, D]` on (ALBEF); needs blocks above `text_layers`."""
        end = len(self.text.blocks)
        if self.text_layers == end:
            raise ConfigError("FusionEncoder: its text blocks all cross-attend; use fuse with the ids")
        mask = MaskSpec(causal=False, attention_mask=attention_mask)
        return self.text.run(text, mask, source=image, layers=(self.text_layers, end))

    def image_states(self, **batch: Any) -> Tensor:
        """`[N, S, D']` of the batch's pictures, class token in front."""
        return self._look(_known(batch))

    def joint_vectors(
        self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`features` from picture states: `image [N, E]`, `text [B, E]`, not of unit length."""
        text = self.read(input_ids, attention_mask)
        return {"image": self.image_proj(image[:, 0]), "text": self.text_proj(text[:, 0])}

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Joint vectors `[N, E]`, `[B, E]` of the modalities in the batch, not of unit length."""
        batch = _known(batch)
        found = {}
        if batch.get("pixel_values") is not None:
            found["image"] = self.image_proj(self._look(batch)[:, 0])
        if batch.get("input_ids") is not None:
            found["text"] = self.text_proj(self.read(batch["input_ids"], batch.get("attention_mask"))[:, 0])
        if not found:
            raise PromptError("FusionEncoder: expected pixel_values or input_ids, found neither")
        return found

    def forward(
        self,
        *,
        return_loss: bool = False,
        masked_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **batch: Any,
    ) -> Output:
        """logits `[B, 2]`: match (no, yes) of each row's picture and text; `use_itm_head=False`: cosines `[N, B]`.

        return_loss: contrast of the pairs and match with hard negatives of the batch.  masked_input_ids, labels
        `[B, T]`: a text with hidden words and what they were (-100 elsewhere), learned by the token head.  The
        published runs add a momentum teacher and a queue (train/objectives.py).
        """
        batch = _known(batch)
        if batch.get("use_itm_head") is False and not return_loss:
            found = self.features(**batch)
            cosines = F.normalize(found["image"], dim=-1) @ F.normalize(found["text"], dim=-1).T
            return Output(logits=cosines, embeddings=found)
        image, ids, mask = self._look(batch), _needed(batch, "input_ids"), batch.get("attention_mask")
        losses: dict[str, Tensor] = {}
        embeddings = None
        logits = self.match_logits(image, ids, mask)
        if return_loss:
            embeddings = self.joint_vectors(image, ids, mask)
            cosines = F.normalize(embeddings["image"], dim=-1) @ F.normalize(embeddings["text"], dim=-1).T
            similarity = cosines / (0.07 if self.temperature is None else self.temperature)
            losses["contrastive"] = pair_loss(similarity)
            texts, images = negatives(similarity, floor=1e-4), negatives(similarity.T, floor=1e-4)
            mask = torch.ones_like(ids) if mask is None else mask
            wrong = self.match_logits(
                torch.cat((image[images], image)), torch.cat((ids, ids[texts])), torch.cat((mask, mask[texts]))
            )
            losses["match"] = match_loss(torch.cat((logits, wrong)), len(ids))
        if labels is not None:
            hidden = ids if masked_input_ids is None else masked_input_ids
            found_words = self.token_logits(image, hidden, batch.get("attention_mask"))
            losses["masked_words"] = masked_token_loss(found_words, labels)
        loss = total(losses) if losses else None
        return Output(logits=logits, embeddings=embeddings, features={"image": image}, loss=loss, losses=losses or None)

    def match_logits(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """`[B, 2]` (no, yes) of picture states `[B, S, D']` and texts, row by row."""
        return self.match(self.fuse(image, input_ids, attention_mask)[:, 0])

    def token_logits(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """`[B, T, V]` of every place of the text, picture states read; raises ConfigError without a token head."""
        if self.token_head is None:
            raise ConfigError("FusionEncoder: this checkpoint has no token head")
        return self.token_head(self.fuse(image, input_ids, attention_mask), self.text.embed_tokens.weight)

    def masked_words(self, **batch: Any) -> Tensor:
        """`[B, T, V]`: logits of every place of the text, picture read; raises ConfigError without a token head."""
        batch = _known(batch)
        return self.token_logits(self._look(batch), _needed(batch, "input_ids"), batch.get("attention_mask"))

    def shortlist(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Retrieval as published: scores of every picture with every text `[N, B]`, and texts with pictures `[B, N]`.

        `images [N, S, D']` are picture states.  Per query the `keep` nearest by cosine are scored by the match head
        (its logit of yes), all others get -100.
        """
        texts = self.read(input_ids, attention_mask)
        image = F.normalize(self.image_proj(images[:, 0]), dim=-1)
        cosine = image @ F.normalize(self.text_proj(texts[:, 0]), dim=-1).T
        scores = []
        for table in (cosine, cosine.T):
            near = table.topk(min(keep, table.shape[1]), dim=1).indices
            found = torch.full_like(table, -100.0)
            for query, others in enumerate(near):
                same = torch.full_like(others, query)
                pictures, words = (same, others) if table is cosine else (others, same)
                hidden = self.fuse(images[pictures], input_ids[words], attention_mask[words])
                found[query, others] = self.match(hidden[:, 0])[:, 1]
            scores.append(found)
        return scores[0], scores[1]

    def _look(self, batch: Mapping[str, Any]) -> Tensor:
        resize = bool(batch.get("interpolate_pos_encoding", False))
        return self.image(_needed(batch, "pixel_values"), interpolate_pos_encoding=resize)


def _needed(batch: Mapping[str, Any], name: str) -> Tensor:
    if batch.get(name) is None:
        raise PromptError(f"FusionEncoder: expected {name}, found {sorted(batch)}")
    return batch[name]


_INPUTS = ("pixel_values", "input_ids", "attention_mask", "use_itm_head", "interpolate_pos_encoding")


def _known(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without what is None; raises ConfigError for a tensor that nothing here reads."""
    given = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(given) - set(_INPUTS)):
        raise ConfigError(f"FusionEncoder: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return given
