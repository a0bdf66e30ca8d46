"""One transformer for pictures, one for texts, and one that reads both at once: FLAVA (arXiv 2112.04482).

    pixel_values -> image  -> states ------ norm -> image embeddings [B, S, D]  -> image_proj -> joint space
                                |
                                +-> to_joint["image"] --+
    [own class token ; image tokens ; text tokens] -----+-> joint blocks -> norm -> joint embeddings [B, 1+S+T, D]
                                +-> to_joint["text"] ---+
                                |
    input_ids    -> text   -> states ------ norm -> text embeddings [B, T, D]   -> text_proj  -> joint space
Heads of pretraining (optional): masked words and masked image tokens, alone (`mim`, `mlm`) or from the joint
embeddings (`joint_image`, `joint_text`), and the match of picture and text (`match`).

Traps: the joint blocks read the states BEFORE the encoders' final norm; image patches are at 2 .. S of the joint
sequence, after two class tokens; text padding is masked only when a mask is given; contrastive projections have a bias
and read the first token of UNMASKED inputs, the masked heads read masked ones.
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
    """The blocks over both modalities; `class_token`: a learned token of their own in front."""

    width: int
    blocks: tuple[PreNormBlockConfig, ...]
    norm: NormConfig
    class_token: bool = True

    def build(self) -> "MultimodalBlocks":
        return MultimodalBlocks(self)


def multimodal_blocks_of(config: Mapping[str, Any]) -> MultimodalBlocksConfig:
    """The blocks over both modalities that a `FlavaMultimodalConfig` describes."""
    shape = parse_config({"num_hidden_layers": 6, **config}, pre_norm=True)
    blocks = tuple(block for block in shape.blocks if isinstance(block, PreNormBlockConfig))
    return MultimodalBlocksConfig(
        width=shape.width, blocks=blocks, norm=shape.norm, class_token=config.get("use_cls_token", True)
    )


class MultimodalBlocks(nn.Module):
    """`[B, L, D] -> [B, 1 + L, D]` after the final norm; the pooler is kept for the files that have one."""

    def __init__(self, config: MultimodalBlocksConfig):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(config.width)) if config.class_token else None
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.norm = config.norm.build(config.width)
        self.pooler = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`: 1 = real, of all tokens, the class token included."""
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
    """Heads over image tokens and words, and the codec that makes image tokens (None: not in the file)."""

    image: TokenHeadConfig
    text: TokenHeadConfig
    match_width: int
    codec: DalleCodecConfig | None = None


def heads_of(
    image: Mapping[str, Any], text: Mapping[str, Any], match_width: int, codec: DalleCodecConfig | None
) -> PretrainingConfig:
    """The heads that a FlavaConfig's `image_config` and `text_config` size, each by its own vocabulary."""

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
    """`space`: width of the joint space; `scale`: start of the temperature's logarithm."""

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
        """`image`, `text` and, with both and `joint`, `multimodal`: last states after the final norm."""
        given = _known(batch)
        states, found = {}, {}
        if "pixel_values" in given:
            states["image"] = self._image_states(given)
            found["image"] = _normed(self.image.final_norm, states["image"])
        if "input_ids" in given:
            states["text"] = self._text_states(given)
            found["text"] = _normed(self.text.final_norm, states["text"])
        if not states:
            raise PromptError("MultimodalEncoder: expected pixel_values or input_ids, found neither")
        if joint and len(states) == 2:
            found["multimodal"] = self._joint(states, given.get("attention_mask"))
        return found

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Every token in the joint space (`image [B, S, E]`, `text [B, T, E]`, not of unit length; the first is the
        item's vector), and `multimodal [B, L, D]` when both are given."""
        found = self.embeddings(**batch)
        projections = {"image": self.image_proj, "text": self.text_proj}
        return {name: projections[name](x) if name in projections else x for name, x in found.items()}

    def forward(self, *, return_loss: bool = False, **batch: Any) -> Output:
        """logits `[B, B]`: contrastive, per image, where a picture and a text are there; embeddings: of unit length.

        return_loss: the contrast of the pairs.  The losses of masked words and image tokens and of the match need
        wrong pairs and targets of a codec; train/objectives.py makes them of `predictions`.
        """
        unmasked = {name: value for name, value in batch.items() if name not in _MASKED}
        found = self.embeddings(joint=False, **unmasked)
        heads = {"image": self.image_proj, "text": self.text_proj}
        vectors = {name: F.normalize(heads[name](found[name][:, 0]), dim=-1) for name in heads if name in found}
        if missing := [name for name in heads if name not in found]:
            if return_loss:
                raise PromptError(f"MultimodalEncoder: a loss needs a picture and a text, found no {missing[0]}")
            return Output(embeddings=vectors)
        logits = vectors["image"] @ vectors["text"].T * self.logit_scale.exp()
        if not return_loss:
            return Output(logits=logits, embeddings=vectors)
        loss = pair_loss(logits)
        return Output(logits=logits, embeddings=vectors, loss=loss, losses={"contrastive": loss})

    def predictions(self, **batch: Any) -> dict[str, Tensor]:
        """Logits of the pretraining heads from masked inputs (`input_ids_masked`, `bool_masked_pos`).

        With both modalities `itm [B, 2]`, `mmm_image [B, patches, V]`, `mmm_text [B, T, V]`; with one `mim` (every
        image token, the class token too) or `mlm`.  Raises ConfigError without the heads.
        """
        if self.heads is None:
            raise ConfigError("MultimodalEncoder: this checkpoint has no pretraining heads")
        given = _known(batch)
        masked = given.pop("input_ids_masked", given.get("input_ids"))
        given.pop("position_ids", None)
        if masked is not None:
            given["input_ids"] = masked
        found = self.embeddings(**given)
        if "multimodal" not in found:
            alone = {"image": "mim", "text": "mlm"}
            return {alone[name]: self.heads[alone[name]](x) for name, x in found.items()}
        joint = found["multimodal"]
        patches, words = found["image"].shape[1] - 1, found["text"].shape[1]
        return {
            "itm": self.heads["match"](joint),
            "mmm_image": self.heads["joint_image"](joint[:, 2 : 2 + patches]),
            "mmm_text": self.heads["joint_text"](joint[:, -words:]),
        }

    @torch.no_grad()
    def image_tokens(self, pixel_values: Tensor) -> Tensor:
        """The codec's ids `[N, h*w]` of pictures mapped for it (`dalle_codec.map_pixels`), row by row; what masked
        patches learn.  Raises ConfigError for a checkpoint without the codec."""
        if self.codec is None:
            raise ConfigError("MultimodalEncoder: this checkpoint has no codec; load one of the pretraining class")
        return self.codec.encode(pixel_values).flatten(1)

    def _image_states(self, batch: Mapping[str, Any]) -> Tensor:
        masked = batch.get("bool_masked_pos")
        x = self.image.embed(batch["pixel_values"], None if masked is None else masked.flatten(1))
        seen = batch.get("image_attention_mask")
        mask = None if seen is None else MaskSpec(causal=False, attention_mask=seen)
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

    def _joint(self, states: Mapping[str, Tensor], words: Tensor | None) -> Tensor:
        x = torch.cat([self.to_joint[name](states[name]) for name in ("image", "text")], 1)
        if words is None:
            return self.joint(x)
        front = states["image"].shape[1] + int(self.joint.class_token is not None)
        return self.joint(x, torch.cat((words.new_ones(len(words), front), words), 1))


_MASKED = ("input_ids_masked", "bool_masked_pos")


def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _known(batch: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(given) - set(_INPUTS)):
        raise ConfigError(f"MultimodalEncoder: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return given


_HEAD_NAMES = {"mim_head": "mim", "mlm_head": "mlm", "mmm_image_head": "joint_image", "mmm_text_head": "joint_text"}
_MATCH_NAMES = {"itm_head.pooler.dense": "heads.match.dense", "itm_head.seq_relationship": "heads.match.out"}


def pretraining_keys(bias: str) -> KeyTable:
    """The heads in the transformers library's names -> ours; `bias`: which of its two tied biases a file holds."""
    heads = KeyTable()
    for source, target in _HEAD_NAMES.items():
        heads += head_keys(tied=False, bias=bias).prefixed(f"{source}.", f"heads.{target}.")
    match = [rename(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in _MATCH_NAMES.items() for leaf in ("weight", "bias")]
    return heads + KeyTable(tuple(match))
