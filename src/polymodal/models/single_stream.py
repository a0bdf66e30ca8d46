"""ViLT (arXiv 2102.03334): text and image tokens in one sequence through one bidirectional transformer.

    input_ids -> text embeddings [B, T, D] + type 0 --+
    pixel_values, pixel_mask -> patches [B, S, D] + type 1 --+-> blocks -> norm -> first token -> dense, tanh -> head
Heads: a classifier or a score on the pooled vector, a token head on the text positions.  Several images per text
(NLVR2): one pass per image, with type 1, 2, ...; the pooled vectors are concatenated before the head.
Traps: the text comes first; the type embedding (`kinds`) is added to BERT's segment embedding; padding of both is
masked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from polymodal.backbones.encoder import TextEncoderConfig, TokenHead
from polymodal.encoders.masked_patches import MaskedPatchesConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.losses import classification_loss
from polymodal.nn.mask import MaskSpec
from polymodal.nn.norm import NormConfig
from polymodal.weights.keytable import KeyTable, rename

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "pixel_mask")


class HeadConfig(Protocol):
    """Config of the `head`; the width of its input is part of it."""

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Linear -> LayerNorm (eps 1e-5) -> GELU -> linear; `hidden` None: one linear."""

    width: int
    classes: int
    hidden: int | None = None

    def build(self) -> nn.Module:
        if self.hidden is None:
            return nn.Linear(self.width, self.classes)
        return nn.Sequential(
            nn.Linear(self.width, self.hidden),
            nn.LayerNorm(self.hidden),
            nn.GELU(),
            nn.Linear(self.hidden, self.classes),
        )


def classifier_keys(source: str, *, hidden: bool) -> KeyTable:
    """`<source>.{0,1,3}` (with a hidden layer) or `<source>` -> the classifier at `head`."""
    layers = (".0", ".1", ".3") if hidden else ("",)
    return KeyTable(
        tuple(rename(f"{source}{at}.{leaf}", f"head{at}.{leaf}") for at in layers for leaf in ("weight", "bias"))
    )


@dataclass(frozen=True, kw_only=True)
class SingleStreamConfig:
    """`text`: embeddings only, its `blocks` are empty.  `kinds`: number of types, 2, or images per row + 1.

    `pooled` False: the head is applied to every text position.  `images` None: pixel_values are [B, C, H, W], else
    [B, images, C, H, W].
    """

    text: TextEncoderConfig
    patches: MaskedPatchesConfig
    blocks: tuple[PreNormBlockConfig, ...]
    norm: NormConfig
    head: HeadConfig
    pooler: bool = True
    pooled: bool = True
    kinds: int = 2
    images: int | None = None

    def build(self) -> "SingleStream":
        return SingleStream(self)


class SingleStream(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "hidden", "features"})

    def __init__(self, config: SingleStreamConfig):
        super().__init__()
        width = config.text.width
        self.config = config
        self.text = config.text.build()
        self.patches = config.patches.build()
        self.kinds = nn.Embedding(config.kinds, width)
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.norm = config.norm.build(width)
        self.pooler = nn.Linear(width, width) if config.pooler else None
        self.head = config.head.build()

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Inputs of the blocks: `text [B, T, D]`, `image [B, S, D]`, padding included."""
        inputs = _check_inputs(batch)
        image, _ = self._encode_images(inputs)[0]
        return {"text": self._text(inputs), "image": image + self._kind(1)}

    def encode(self, **batch: Any) -> tuple[Tensor, Tensor]:
        """hidden `[B, T + S, D]` after the norm, text first, and its mask (1 = real); for the first image."""
        inputs = _check_inputs(batch)
        text, image = self._text(inputs), self._encode_images(inputs)[0]
        return self._run(text, inputs, image, 1), _joint_mask(inputs, text, image[1])

    def pool(self, hidden: Tensor) -> Tensor:
        """`[B, T + S, D] -> [B, D]` from the first token; raises ConfigError without a pooler."""
        if self.pooler is None:
            raise ConfigError("SingleStream: pooling needs a pooler; set pooler=True in the config")
        return torch.tanh(self.pooler(hidden[:, 0]))

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, classes]`, or `[B, T, V]` over the text (`pooled` False); hidden `[B, T + S, D]` after the norm,
        for the first image.

        labels: classes `[B]`, scores `[B, classes]` of several correct answers, or masked words `[B, T]` (-100
        elsewhere).
        """
        inputs = _check_inputs(batch)
        text, images = self._text(inputs), self._encode_images(inputs)
        states = [self._run(text, inputs, image, index) for index, image in enumerate(images, start=1)]
        logits = self._apply_head(states, text.shape[1])
        loss = None if labels is None else classification_loss(logits, labels)
        name = "classification" if self.config.pooled else "masked_words"
        return Output(
            logits=logits,
            hidden=states[0],
            features={"text": text, "image": images[0][0] + self._kind(1)},
            loss=loss,
            losses=None if loss is None else {name: loss},
        )

    def _apply_head(self, states: Sequence[Tensor], length: int) -> Tensor:
        """Logits from the states of each image's pass; `length`: of the text."""
        if self.config.pooled:
            return self.head(torch.cat([self.pool(hidden) for hidden in states], -1))
        words = states[0][:, :length]
        if isinstance(self.head, TokenHead):
            return self.head(words, self.text.embed_tokens.weight if self.head.weight is None else None)
        return self.head(words)

    def _kind(self, number: int) -> Tensor:
        """Type embedding `[1, D]`; calls the module, so that FSDP gathers a sharded table."""
        return self.kinds(torch.full((1,), number, device=self.kinds.weight.device))

    def _text(self, batch: Mapping[str, Any]) -> Tensor:
        if "input_ids" not in batch:
            raise PromptError(f"SingleStream: expected input_ids, found {sorted(batch)}")
        return self.text.embed(batch["input_ids"], batch.get("token_type_ids")) + self._kind(0)

    def _encode_images(self, batch: Mapping[str, Any]) -> Sequence[tuple[Tensor, Tensor]]:
        """Tokens and mask of the first, second, ... image of every row."""
        pixels, mask = batch.get("pixel_values"), batch.get("pixel_mask")
        if pixels is None:
            raise PromptError(f"SingleStream: expected pixel_values, found {sorted(batch)}")
        count = self.config.images
        if count is None:
            return [self.patches(pixels, mask)]
        if pixels.dim() == 4:
            pixels = pixels[:, None]
        if pixels.shape[1] != count:
            raise PromptError(f"SingleStream: expected {count} images per row, found {pixels.shape[1]}")
        return [self.patches(pixels[:, i], None if mask is None else mask[:, i]) for i in range(count)]

    def _run(self, text: Tensor, batch: Mapping[str, Any], image: tuple[Tensor, Tensor], kind: int) -> Tensor:
        tokens, image_mask = image
        if len(tokens) != len(text):
            raise PromptError(f"SingleStream: expected one image per text ({len(text)}), found {len(tokens)}")
        if kind >= self.config.kinds:
            raise ConfigError(f"SingleStream: image {kind} needs kinds={kind + 1}, found {self.config.kinds}")
        x = torch.cat((text, tokens + self._kind(kind)), 1)
        spec = MaskSpec(causal=False, attention_mask=_joint_mask(batch, text, image_mask))
        mask = spec.prepare(x.shape[1], x.shape[1], x.device)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


def _joint_mask(batch: Mapping[str, Any], text: Tensor, image_mask: Tensor) -> Tensor:
    """Mask `[B, T + S]` of text and image tokens."""
    text_mask = batch.get("attention_mask")
    text_mask = image_mask.new_ones(text.shape[:2]) if text_mask is None else text_mask.to(image_mask.dtype)
    return torch.cat((text_mask, image_mask), 1)


def _check_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without None values; raises ConfigError for unknown inputs."""
    inputs = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(inputs) - set(_INPUTS)):
        raise ConfigError(f"SingleStream: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return inputs
