"""Image-text matching in two steps: cosine similarity in a joint space, and a text encoder that attends to the image.

    pixel_values -> image -> states [N, S, D'] -> class token -> image_proj -> [N, E]  --+ cosine: shortlist
    input_ids -> text, blocks 0 .. text_layers, no source -> first token -> text_proj -> [B, E] --+
    input_ids -> text, all blocks, source = image states -> first token -> match -> [B, 2]   final score
                                                         -> token_head -> [B, T, V]          masked words

ALBEF (arXiv 2107.07651): only the upper blocks cross-attend, the lower ones (text_layers = 6) are the text encoder.
BLIP (arXiv 2201.12086): every block cross-attends; without a source they are the text encoder.
Traps: match scores are logits of (no, yes); joint vectors are not normalised; ALBEF divides by `temperature`, which is
not stored as a logarithm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.backbones.encoder import TextEncoderConfig, TokenHeadConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output, total_loss
from polymodal.nn.losses import masked_token_loss, match_loss, negatives, pair_loss
from polymodal.nn.mask import MaskSpec


@dataclass(frozen=True, kw_only=True)
class JointConfig:
    """The joint space: `width` E; `temperature`: initial value of the learned divisor, None = not in the file."""

    width: int = 256
    temperature: float | None = None


class FusionEncoder(nn.Module):
    """See the module docstring.  `text_layers`: blocks of the text-only encoder, None: all."""

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

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Text without image -> states `[B, T, D]` after `text_layers` blocks."""
        mask = MaskSpec(causal=False, attention_mask=attention_mask)
        return self.text.run(self.text.embed(input_ids), mask, layers=(0, self.text_layers))

    def fuse(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Image states `[B, S, D']` and texts, paired by row -> `[B, T, D]` after all blocks."""
        mask = MaskSpec(causal=False, attention_mask=attention_mask)
        return self.text.run(self.text.embed(input_ids), mask, source=image)

    def fuse_states(self, image: Tensor, text: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Like `fuse`, but from text-only states `[B, T, D]` (ALBEF); needs blocks above `text_layers`."""
        end = len(self.text.blocks)
        if self.text_layers == end:
            raise ConfigError("FusionEncoder: all text blocks cross-attend; call fuse with the ids")
        mask = MaskSpec(causal=False, attention_mask=attention_mask)
        return self.text.run(text, mask, source=image, layers=(self.text_layers, end))

    def image_states(self, **batch: Any) -> Tensor:
        """Image states `[N, S, D']`, class token first."""
        return self._encode_image(_check_inputs(batch))

    def joint_vectors(
        self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`features` from image states: `image [N, E]`, `text [B, E]`, not normalised."""
        text = self.encode_text(input_ids, attention_mask)
        return {"image": self.image_proj(image[:, 0]), "text": self.text_proj(text[:, 0])}

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Joint vectors `[N, E]`, `[B, E]` of the modalities in the batch, not normalised."""
        batch = _check_inputs(batch)
        vectors = {}
        if batch.get("pixel_values") is not None:
            vectors["image"] = self.image_proj(self._encode_image(batch)[:, 0])
        if batch.get("input_ids") is not None:
            vectors["text"] = self.text_proj(self.encode_text(batch["input_ids"], batch.get("attention_mask"))[:, 0])
        if not vectors:
            raise PromptError("FusionEncoder: expected pixel_values or input_ids, found neither")
        return vectors

    def forward(
        self,
        *,
        return_loss: bool = False,
        masked_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **batch: Any,
    ) -> Output:
        """logits `[B, 2]`: match (no, yes) of the image and text of each row; `use_itm_head=False`: cosines `[N, B]`.

        return_loss: contrastive loss, and match loss with hard negatives from the batch.  masked_input_ids, labels
        `[B, T]`: masked text and the original ids of the masked words (-100 elsewhere), for the token head.  The
        published runs add a momentum teacher and a queue (train/objectives.py).
        """
        batch = _check_inputs(batch)
        if batch.get("use_itm_head") is False and not return_loss:
            vectors = self.features(**batch)
            cosines = F.normalize(vectors["image"], dim=-1) @ F.normalize(vectors["text"], dim=-1).T
            return Output(logits=cosines, embeddings=vectors)
        image, ids, mask = self._encode_image(batch), _required(batch, "input_ids"), batch.get("attention_mask")
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
            negative_logits = self.match_logits(
                torch.cat((image[images], image)), torch.cat((ids, ids[texts])), torch.cat((mask, mask[texts]))
            )
            losses["match"] = match_loss(torch.cat((logits, negative_logits)), len(ids))
        if labels is not None:
            masked_ids = ids if masked_input_ids is None else masked_input_ids
            token_logits = self.token_logits(image, masked_ids, batch.get("attention_mask"))
            losses["masked_words"] = masked_token_loss(token_logits, labels)
        loss = total_loss(losses) if losses else None
        return Output(logits=logits, embeddings=embeddings, features={"image": image}, loss=loss, losses=losses or None)

    def match_logits(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """`[B, 2]` (no, yes) for image states `[B, S, D']` and texts, paired by row."""
        return self.match(self.fuse(image, input_ids, attention_mask)[:, 0])

    def token_logits(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits `[B, T, V]` of every text position, given image states; raises ConfigError without a token head."""
        if self.token_head is None:
            raise ConfigError("FusionEncoder: this checkpoint has no token head")
        return self.token_head(self.fuse(image, input_ids, attention_mask), self.text.embed_tokens.weight)

    def masked_words(self, **batch: Any) -> Tensor:
        """Logits `[B, T, V]` of every text position, given the image; raises ConfigError without a token head."""
        batch = _check_inputs(batch)
        return self.token_logits(self._encode_image(batch), _required(batch, "input_ids"), batch.get("attention_mask"))

    def shortlist(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Retrieval as published: scores of images with texts `[N, B]`, and of texts with images `[B, N]`.

        `images [N, S, D']` are image states.  For each query, the match head (its logit of yes) scores the `keep` most
        similar items by cosine; all others get -100.
        """
        texts = self.encode_text(input_ids, attention_mask)
        image = F.normalize(self.image_proj(images[:, 0]), dim=-1)
        cosine = image @ F.normalize(self.text_proj(texts[:, 0]), dim=-1).T
        scores = []
        for table in (cosine, cosine.T):
            nearest = table.topk(min(keep, table.shape[1]), dim=1).indices
            match_scores = torch.full_like(table, -100.0)
            for query, others in enumerate(nearest):
                same = torch.full_like(others, query)
                rows, columns = (same, others) if table is cosine else (others, same)
                hidden = self.fuse(images[rows], input_ids[columns], attention_mask[columns])
                match_scores[query, others] = self.match(hidden[:, 0])[:, 1]
            scores.append(match_scores)
        return scores[0], scores[1]

    def _encode_image(self, batch: Mapping[str, Any]) -> Tensor:
        resize = bool(batch.get("interpolate_pos_encoding", False))
        return self.image(_required(batch, "pixel_values"), interpolate_pos_encoding=resize)


def _required(batch: Mapping[str, Any], name: str) -> Tensor:
    if batch.get(name) is None:
        raise PromptError(f"FusionEncoder: expected {name}, found {sorted(batch)}")
    return batch[name]


_INPUTS = ("pixel_values", "input_ids", "attention_mask", "use_itm_head", "interpolate_pos_encoding")


def _check_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without None values; raises ConfigError for unknown inputs."""
    inputs = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(inputs) - set(_INPUTS)):
        raise ConfigError(f"FusionEncoder: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return inputs
