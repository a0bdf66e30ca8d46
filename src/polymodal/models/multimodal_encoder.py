"""FLAVA (arXiv 2112.04482): an image encoder, a text encoder, and a multimodal encoder over both.

    pixel_values -> image  -> states ------ norm -> image embeddings [B, S, D]  -> image_proj -> joint space
                                |
                                +-> to_joint["image"] --+
    [class token ; image tokens ; text tokens] ---------+-> joint blocks -> norm -> joint embeddings [B, 1+S+T, D]
                                +-> to_joint["text"] ---+
                                |
    input_ids    -> text   -> states ------ norm -> text embeddings [B, T, D]   -> text_proj  -> joint space
Pretraining heads (optional): masked words and masked image tokens, unimodal (`mim`, `mlm`) or from the joint
embeddings (`joint_image`, `joint_text`), and image-text matching (`match`).

Traps: the joint blocks take the states BEFORE the final norm of the encoders; image patches are at 2 .. S of the joint
sequence, after two class tokens; text padding is masked only if a mask is passed; the contrastive projections have a
bias and use the first token of UNMASKED inputs, the masked heads use masked inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.backbones.encoder import TextEncoderConfig, TokenHeadConfig, head_keys, parse_config
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.generators.dalle_codec import DalleCodecConfig
from polymodal.models.output import Output
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.losses import pair_loss
from polymodal.nn.mask import MaskSpec
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable, rename

_INPUTS = (
    "input_ids",
    "input_ids_masked",
    "pixel_values",
    "attention_mask",
    "token_type_ids",
    "bool_masked_pos",
    "position_ids",
    "image_attention_mask",
)


@dataclass(frozen=True, kw_only=True)
class MultimodalBlocksConfig:
    """The blocks over both modalities; `class_token`: prepend another learned class token."""

    width: int
    blocks: tuple[PreNormBlockConfig, ...]
    norm: NormConfig
    class_token: bool = True

    def build(self) -> "MultimodalBlocks":
        return MultimodalBlocks(self)


def parse_multimodal_config(config: Mapping[str, Any]) -> MultimodalBlocksConfig:
    """The blocks over both modalities of a `FlavaMultimodalConfig` dict."""
    shape = parse_config({"num_hidden_layers": 6, **config}, pre_norm=True)
    blocks = tuple(block for block in shape.blocks if isinstance(block, PreNormBlockConfig))
    return MultimodalBlocksConfig(
        width=shape.width, blocks=blocks, norm=shape.norm, class_token=config.get("use_cls_token", True)
    )


class MultimodalBlocks(nn.Module):
    """`[B, L, D] -> [B, 1 + L, D]` after the final norm; the pooler is unused, but published files have one."""

    def __init__(self, config: MultimodalBlocksConfig):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(config.width)) if config.class_token else None
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.norm = config.norm.build(config.width)
        self.pooler = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask [B, 1 + L]`: 1 = real token, class token included."""
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(len(x), 1, -1), x), 1)
        prepared = MaskSpec(causal=False, attention_mask=mask).prepare(x.shape[1], x.shape[1], x.device)
        for block in self.blocks:
            x = block(x, prepared)
        return self.norm(x)


class MatchHead(nn.Module):
    """First token -> dense, tanh -> linear: logits `[B, 2]` (no, yes)."""

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out = nn.Linear(width, 2)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out(torch.tanh(self.dense(hidden[:, 0])))


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """Heads over image tokens and words, and the codec that computes image tokens (None: not in the file)."""

    image: TokenHeadConfig
    text: TokenHeadConfig
    match_width: int
    codec: DalleCodecConfig | None = None


def parse_heads(
    image: Mapping[str, Any], text: Mapping[str, Any], match_width: int, codec: DalleCodecConfig | None
) -> PretrainingConfig:
    """The pretraining heads for `image_config` and `text_config` of a FlavaConfig."""

    def head(child: Mapping[str, Any], vocabulary: int) -> TokenHeadConfig:
        return TokenHeadConfig(
            width=child.get("hidden_size", 768),
            vocab_size=child.get("vocab_size", vocabulary),
            activation=child.get("hidden_act", "gelu"),
            norm=LayerNormConfig(eps=child.get("layer_norm_eps", 1e-12)),
            tied=False,
        )

    return PretrainingConfig(image=head(image, 8192), text=head(text, 30522), match_width=match_width, codec=codec)


@dataclass(frozen=True, kw_only=True)
class MultimodalEncoderConfig:
    """`space`: width of the joint space; `scale`: initial value of log(1 / temperature)."""

    image: ViTConfig
    text: TextEncoderConfig
    joint: MultimodalBlocksConfig
    space: int
    scale: float = 2.6592
    heads: PretrainingConfig | None = None

    def build(self) -> "MultimodalEncoder":
        return MultimodalEncoder(self)


class MultimodalEncoder(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "embeddings"})

    def __init__(self, config: MultimodalEncoderConfig):
        super().__init__()
        self.grid = config.image.grid_sides
        self.image = config.image.build()
        self.text = config.text.build()
        self.joint = config.joint.build()
        image, text, joint = config.image.width, config.text.width, config.joint.width
        self.image_proj = nn.Linear(image, config.space)
        self.text_proj = nn.Linear(text, config.space)
        self.to_joint = nn.ModuleDict({"image": nn.Linear(image, joint), "text": nn.Linear(text, joint)})
        self.logit_scale = nn.Parameter(torch.tensor([config.scale]))
        heads = config.heads
        self.heads = (
            None
            if heads is None
            else nn.ModuleDict(
                {
                    "mim": heads.image.build(),
                    "mlm": heads.text.build(),
                    "joint_image": heads.image.build(),
                    "joint_text": heads.text.build(),
                    "match": MatchHead(heads.match_width),
                }
            )
        )
        self.codec = None if heads is None or heads.codec is None else heads.codec.build()

    def embeddings(self, *, joint: bool = True, **batch: Any) -> dict[str, Tensor]:
        """Last hidden states after the final norm: `image`, `text`, and with both and `joint` also `multimodal`."""
        inputs = _check_inputs(batch)
        states, normed = {}, {}
        if "pixel_values" in inputs:
            states["image"] = self._image_states(inputs)
            normed["image"] = _apply_norm(self.image.final_norm, states["image"])
        if "input_ids" in inputs:
            states["text"] = self._text_states(inputs)
            normed["text"] = _apply_norm(self.text.final_norm, states["text"])
        if not states:
            raise PromptError("MultimodalEncoder: expected pixel_values or input_ids, found neither")
        if joint and len(states) == 2:
            normed["multimodal"] = self._joint(states, inputs.get("attention_mask"))
        return normed

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Projections of every token, `image [B, S, E]` and `text [B, T, E]`, and with both `multimodal [B, L, D]`.

        The first token is the vector of the item; vectors are not normalised.
        """
        states = self.embeddings(**batch)
        projections = {"image": self.image_proj, "text": self.text_proj}
        return {name: projections[name](x) if name in projections else x for name, x in states.items()}

    def forward(self, *, return_loss: bool = False, **batch: Any) -> Output:
        """logits `[B, B]`: contrastive, per image, if the batch has images and texts; embeddings: unit vectors.

        return_loss: the contrastive loss.  The losses of masked words, masked image tokens and matching need negative
        pairs and codec targets; train/pretraining.py computes them from `predictions`.
        """
        unmasked = {name: value for name, value in batch.items() if name not in _MASKED}
        states = self.embeddings(joint=False, **unmasked)
        heads = {"image": self.image_proj, "text": self.text_proj}
        vectors = {name: F.normalize(heads[name](states[name][:, 0]), dim=-1) for name in heads if name in states}
        if missing := [name for name in heads if name not in states]:
            if return_loss:
                raise PromptError(f"MultimodalEncoder: a loss needs an image and a text, found no {missing[0]}")
            return Output(embeddings=vectors)
        logits = vectors["image"] @ vectors["text"].T * self.logit_scale.exp()
        if not return_loss:
            return Output(logits=logits, embeddings=vectors)
        loss = pair_loss(logits)
        return Output(logits=logits, embeddings=vectors, loss=loss, losses={"contrastive": loss})

    def predictions(self, **batch: Any) -> dict[str, Tensor]:
        """Logits of the pretraining heads for masked inputs (`input_ids_masked`, `bool_masked_pos`).

        With both modalities `itm [B, 2]`, `mmm_image [B, patches, V]`, `mmm_text [B, T, V]`; with one, `mim` (of all
        image tokens, class token included) or `mlm`.  Raises ConfigError without the heads.
        """
        if self.heads is None:
            raise ConfigError("MultimodalEncoder: this checkpoint has no pretraining heads")
        inputs = _check_inputs(batch)
        masked = inputs.pop("input_ids_masked", inputs.get("input_ids"))
        inputs.pop("position_ids", None)
        if masked is not None:
            inputs["input_ids"] = masked
        states = self.embeddings(**inputs)
        if "multimodal" not in states:
            unimodal = {"image": "mim", "text": "mlm"}
            return {unimodal[name]: self.heads[unimodal[name]](x) for name, x in states.items()}
        joint = states["multimodal"]
        patches, words = states["image"].shape[1] - 1, states["text"].shape[1]
        return {
            "itm": self.heads["match"](joint),
            "mmm_image": self.heads["joint_image"](joint[:, 2 : 2 + patches]),
            "mmm_text": self.heads["joint_text"](joint[:, -words:]),
        }

    @torch.no_grad()
    def image_tokens(self, pixel_values: Tensor) -> Tensor:
        """Codec ids `[N, h*w]`, row-major, the targets of masked patches, of images mapped by `dalle_codec.map_pixels`.

        Raises ConfigError if the checkpoint has no codec.
        """
        if self.codec is None:
            raise ConfigError("MultimodalEncoder: this checkpoint has no codec; load a pretraining checkpoint")
        return self.codec.encode(pixel_values).flatten(1)

    def _image_states(self, batch: Mapping[str, Any]) -> Tensor:
        masked = batch.get("bool_masked_pos")
        x = self.image.embed(batch["pixel_values"], None if masked is None else masked.flatten(1))
        attention_mask = batch.get("image_attention_mask")
        mask = None if attention_mask is None else MaskSpec(causal=False, attention_mask=attention_mask)
        for block in self.image.blocks:
            x = block(x, None if mask is None else mask.prepare(x.shape[1], x.shape[1], x.device))
        return x

    def _text_states(self, batch: Mapping[str, Any]) -> Tensor:
        x = self.text.embed(batch["input_ids"], batch.get("token_type_ids"), batch.get("position_ids"))
        mask = MaskSpec(causal=False, attention_mask=batch.get("attention_mask"))
        prepared = mask.prepare(x.shape[1], x.shape[1], x.device)
        for block in self.text.blocks:
            x = block(x, prepared)
        return x

    def _joint(self, states: Mapping[str, Tensor], text_mask: Tensor | None) -> Tensor:
        x = torch.cat([self.to_joint[name](states[name]) for name in ("image", "text")], 1)
        if text_mask is None:
            return self.joint(x)
        leading = states["image"].shape[1] + int(self.joint.class_token is not None)
        return self.joint(x, torch.cat((text_mask.new_ones(len(text_mask), leading), text_mask), 1))


_MASKED = ("input_ids_masked", "bool_masked_pos")


def _apply_norm(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _check_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without None values; raises ConfigError for unknown inputs."""
    inputs = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(inputs) - set(_INPUTS)):
        raise ConfigError(f"MultimodalEncoder: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return inputs


_HEAD_NAMES = {"mim_head": "mim", "mlm_head": "mlm", "mmm_image_head": "joint_image", "mmm_text_head": "joint_text"}
_MATCH_NAMES = {"itm_head.pooler.dense": "heads.match.dense", "itm_head.seq_relationship": "heads.match.out"}


def pretraining_keys(bias: str) -> KeyTable:
    """transformers' names of the heads -> ours; `bias`: which of the two tied biases the file has."""
    heads = KeyTable()
    for source, target in _HEAD_NAMES.items():
        heads += head_keys(f"{source}.", embedding=None, bias=bias).prefixed(target=f"heads.{target}.")
    match = [rename(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in _MATCH_NAMES.items() for leaf in ("weight", "bias")]
    return heads + KeyTable(tuple(match))
