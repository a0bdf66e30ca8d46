"""TomBERT (IJCAI 2019): the sentiment of a tweet and its picture toward one thing in it, the target.

    tweet and target, ids [B, T] -> BERT -> hidden [B, T, D]
    target alone, ids [B, S] -> a second BERT -> looks at the picture's 49 regions -> pooled: one picture vector [B, D]
    [picture vector ; hidden] [B, 1 + T, D] -> one block of BERT -> pooled at the picture, at the first token, or both
    -> logits [B, 3] (negative, neutral, positive)

The picture's regions come from a ResNet, or are given (`regions` [B, 49, 2048]).
Traps: pooling "first" is the picture's place, "cls" the token behind it; the second BERT begins as a copy of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.encoder import BERT_KEYS, TextEncoderConfig, attention_keys
from polymodal.encoders.resnet import ResNetConfig, torchvision_keys
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PostNormBlockConfig
from polymodal.nn.losses import classification_loss
from polymodal.nn.mask import MaskSpec, PreparedMask, padding_mask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, rename

PLACES = {"first": (0,), "cls": (1,), "both": (1, 0)}
TEXT = ("input_ids", "attention_mask", "token_type_ids")
TARGET = ("target_ids", "target_mask", "target_type_ids")


@dataclass(frozen=True, kw_only=True)
class TomBertConfig:
    """text: of both BERTs, without a pooler.  heads, ffn_width: of the two blocks behind them.  picture: None where
    regions are given; region_width: of one."""

    text: TextEncoderConfig
    heads: int = 12
    ffn_width: int = 3072
    classes: int = 3
    pooling: str = "first"
    picture: ResNetConfig | None = None
    region_width: int = 2048
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.pooling not in PLACES:
            raise ConfigError(f"TomBERT: pooling {self.pooling!r}; expected one of {', '.join(PLACES)}")
        if self.picture is not None and self.picture.out_width != self.region_width:
            raise ConfigError(f"TomBERT: the ResNet gives {self.picture.out_width} numbers a region, region_width is "
                              f"{self.region_width}")  # fmt: skip

    def build(self) -> TomBert:
        return TomBert(self)


class Look(nn.Module):
    """One post-norm block whose attention reads another sequence alone: `[B, S, D]`, source `[B, R, D]`."""

    def __init__(self, width: int, heads: int, ffn_width: int) -> None:
        super().__init__()
        norm = LayerNormConfig(eps=1e-12)
        attention = AttentionConfig(width=width, heads=heads, qkv_bias=True, out_bias=True, source_width=width)
        self.attn = attention.build()
        self.attn_norm = norm.build(width)
        self.mlp = MLPConfig(width=width, ffn_width=ffn_width, activation="gelu").build()
        self.mlp_norm = norm.build(width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        x = self.attn_norm(x + self.attn(x, PreparedMask(), source=source))
        return self.mlp_norm(x + self.mlp(x))


class TomBert(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "hidden", "features"})

    def __init__(self, config: TomBertConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text.width
        self.text = config.text.build()
        self.target = config.text.build()
        self.picture = None if config.picture is None else config.picture.build()
        self.proj = nn.Linear(config.region_width, width)
        self.look = Look(width, config.heads, config.ffn_width)
        self.look_pooler = nn.Linear(width, width)
        self.joint = PostNormBlockConfig(
            attention=AttentionConfig(width=width, heads=config.heads, qkv_bias=True, out_bias=True),
            mlp=MLPConfig(width=width, ffn_width=config.ffn_width, activation="gelu"),
        ).build()
        places = PLACES[config.pooling]
        self.poolers = nn.ModuleDict({name_of(place): nn.Linear(width, width) for place in places})
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width * len(places), config.classes)

    @torch.no_grad()
    def copy_text_to_target(self) -> None:
        """How training begins: both BERTs are the published one."""
        self.target.load_state_dict(self.text.state_dict())

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """ "text" [B, T, D], "target" [B, S, D], "image" the regions [B, R, D]."""
        given = {name: value for name, value in batch.items() if value is not None}
        source = "regions" if self.picture is None else "pixel_values"
        if unknown := sorted(set(given) - {*TEXT, *TARGET, source}):
            raise ConfigError(f"TomBERT: does not know the inputs {unknown}; it takes input_ids, target_ids, {source}")
        if missing := [name for name in ("input_ids", "target_ids", source) if name not in given]:
            raise PromptError(f"TomBERT: expected input_ids, target_ids and {source}, found no {missing[0]}")
        regions = given[source] if self.picture is None else self.picture(given[source])
        counts = {"input_ids": len(given["input_ids"]), "target_ids": len(given["target_ids"]), source: len(regions)}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise PromptError(f"TomBERT: expected one number of samples, found {said}")
        if regions.dim() != 3 or regions.shape[2] != self.config.region_width:
            expected = f"[B, R, {self.config.region_width}]"
            raise PromptError(f"TomBERT: regions must be {expected}, found {list(regions.shape)}")
        text, target = self.read(self.text, given, TEXT), self.read(self.target, given, TARGET)
        return {"text": text, "target": target, "image": self.proj(regions)}

    @staticmethod
    def read(encoder: nn.Module, given: dict[str, Any], names: Sequence[str]) -> Tensor:
        """Hidden states of the ids, mask and segments of these names."""
        return encoder(*(given.get(name) for name in names))

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, classes]`; labels: classes `[B]`."""
        parts = self.features(**batch)
        seen = torch.tanh(self.look_pooler(self.look(parts["target"], parts["image"])[:, 0]))
        x = torch.cat((seen[:, None], parts["text"]), 1)
        mask = padding_mask(batch.get("attention_mask"))
        mask = None if mask is None else torch.cat((torch.ones_like(mask[:, :1]), mask), 1)
        spec = MaskSpec(causal=False, attention_mask=mask)
        hidden = self.joint(x, spec.prepare(x.shape[1], x.shape[1], x.device))
        places = PLACES[self.config.pooling]
        pooled = [torch.tanh(self.poolers[name_of(place)](hidden[:, place])) for place in places]
        logits = self.classifier(self.dropout(torch.cat(pooled, -1)))
        output = Output(logits=logits, hidden=hidden, features=parts)
        if labels is None:
            return output
        loss = classification_loss(logits, labels.reshape(-1))
        return output._replace(loss=loss, losses={"classification": loss})


def name_of(place: int) -> str:
    """What stands at a place of the joint sequence."""
    return "text" if place else "image"


def _pair(source: str, target: str) -> list[Row]:
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]


def _block(source: str, target: str) -> list[Row]:
    return [
        *attention_keys(f"{source}.attention", f"{target}.attn"),
        *_pair(f"{source}.intermediate.dense", f"{target}.mlp.up_proj"),
        *_pair(f"{source}.output.dense", f"{target}.mlp.down_proj"),
        *_pair(f"{source}.output.LayerNorm", f"{target}.mlp_norm"),
    ]


def official_keys(config: TomBertConfig) -> KeyTable:
    """The names of TomBertForMMSequenceClassification -> ours; a ResNet under `resnet.`, as its own file has it."""
    keys = BERT_KEYS.prefixed("bert.", "text.") + BERT_KEYS.prefixed("s2_bert.", "target.")
    names = {"vismap2text": "proj", "ent2img_pooler.dense": "look_pooler", "classifier": "classifier"}
    rows = [row for source, target in names.items() for row in _pair(source, target)]
    rows += [*_block("ent2img_attention.layer.0", "look"), *_block("comb_attention.layer.0", "joint")]
    official = {"text": "text_pooler", "image": "img_pooler"}
    for place in PLACES[config.pooling]:
        rows += _pair(f"{official[name_of(place)]}.dense", f"poolers.{name_of(place)}")
    if config.picture is not None:
        keys += torchvision_keys(config.picture).prefixed("resnet.", "picture.")
    return keys + KeyTable(tuple(rows))
