"""MESM and its dense form FE2E (arXiv 2103.09666): emotions from words, faces and sound, all trained together.

    words -> ALBERT, first token [B, 768]                                              -> linear ┐
    faces [F, 3, 48, 48] of all samples -> VGG -> two linears [F, 64] -> transformer   -> linear ├-> one weight each
    spectrograms [P, 1, 128, 32]        -> VGG -> two linears [P, 64] -> transformer   -> linear ┘   -> logits [B, 6]

The transformers begin with a learned token, whose last state counts; there are no positions.  In the sparse form the
words choose which positions of a face or a spectrogram the VGG computes (`encoders/sparse_vgg.py`).
Traps: faces and spectrograms lie flat, `face_counts` and `spectrogram_counts` say how many each sample has; the three
modalities are weighted alike for all emotions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from polymodal.backbones.albert import ALBERT_KEYS, AlbertConfig
from polymodal.encoders.sparse_vgg import DenseVgg, SparseVgg, Widths, dense_keys, sparse_keys
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PostNormBlockConfig
from polymodal.nn.mask import MaskSpec
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split

INPUTS = {"vision": "faces", "audio": "spectrograms"}
COUNTS = {"vision": "face_counts", "audio": "spectrogram_counts"}
TEXT = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, kw_only=True)
class MesmConfig:
    """threshold: chances that the kept positions add up to; None: the dense form.  face, spectrogram: [C, H, W].

    widths: of the VGG; hidden: between it and `width`, which is that of the transformers.
    """

    text: AlbertConfig = field(default_factory=AlbertConfig)
    classes: int = 6
    threshold: float | None = None
    widths: Widths = (64, 128, 256, 512)
    hidden: int = 1024
    width: int = 64
    depth: int = 4
    heads: int = 4
    ffn_width: int = 2048
    face: tuple[int, int, int] = (3, 48, 48)
    spectrogram: tuple[int, int, int] = (1, 128, 32)

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ConfigError(f"MESM: threshold must lie between 0 and 1, found {self.threshold}")
        if len(self.widths) != 4:
            raise ConfigError(f"MESM: widths must be four, found {len(self.widths)}")
        for name, (_, height, width) in (("face", self.face), ("spectrogram", self.spectrogram)):
            if height % 16 or width % 16:
                raise ConfigError(f"MESM: {name} must be of sides divisible by 16, found {height} x {width}")

    def shape(self, modality: str) -> tuple[int, int, int]:
        """Of one item, [C, H, W]."""
        return self.face if modality == "vision" else self.spectrogram

    def build(self) -> Mesm:
        return Mesm(self)


class ItemTower(nn.Module):
    """Items of all samples `[N, C, H, W]` -> one vector a sample `[B, D]`."""

    def __init__(self, config: MesmConfig, modality: str) -> None:
        super().__init__()
        channels, height, width = config.shape(modality)
        sparse = config.threshold is not None
        self.vgg: DenseVgg | SparseVgg = (
            SparseVgg(channels, config.widths, config.text.width, config.threshold or 0.0)
            if sparse
            else DenseVgg(channels, config.widths)
        )
        self.up = nn.Linear(config.widths[3] * (height // 16) * (width // 16), config.hidden)
        self.down = nn.Linear(config.hidden, config.width)
        block = PostNormBlockConfig(
            attention=AttentionConfig(width=config.width, heads=config.heads, qkv_bias=True, out_bias=True),
            mlp=MLPConfig(width=config.width, ffn_width=config.ffn_width, activation="relu"),
            norm=LayerNormConfig(eps=1e-5),
        )
        self.blocks = nn.ModuleList(block.build() for _ in range(config.depth))
        self.class_token = nn.Parameter(torch.zeros(1, config.width))

    def forward(self, items: Tensor, counts: list[int], text: Tensor) -> Tensor:
        owners = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(items.device)
        vectors = self.down(F.relu(self.up(self.vgg(items, text, owners).flatten(1))))
        rows = pad_sequence(list(vectors.split(counts)), batch_first=True)
        x = torch.cat((self.class_token.expand(len(rows), 1, -1), rows), 1)
        lengths = torch.tensor(counts, device=x.device)[:, None]
        real = torch.arange(x.shape[1], device=x.device) <= lengths
        mask = MaskSpec(causal=False, attention_mask=real).prepare(x.shape[1], x.shape[1], x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x[:, 0]


class Mesm(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "features"})

    def __init__(self, config: MesmConfig) -> None:
        super().__init__()
        self.config = config
        self.text = config.text.build()
        self.towers = nn.ModuleDict({name: ItemTower(config, name) for name in INPUTS})
        widths = {"text": config.text.width, "vision": config.width, "audio": config.width}
        self.heads = nn.ModuleDict({name: nn.Linear(width, config.classes) for name, width in widths.items()})
        self.weights = nn.Linear(3, 1, bias=False)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """A vector of each modality, `[B, D]`."""
        given = {name: value for name, value in batch.items() if value is not None}
        if unknown := sorted(set(given) - {*TEXT, *INPUTS.values(), *COUNTS.values()}):
            raise ConfigError(f"MESM: does not know the inputs {unknown}; it takes input_ids, faces, spectrograms")
        if missing := [name for name in ("input_ids", *INPUTS.values(), *COUNTS.values()) if name not in given]:
            raise PromptError(f"MESM: expected input_ids, faces, spectrograms and their counts, found no {missing[0]}")
        text = self.text(*(batch.get(name) for name in TEXT))[:, 0]
        parts = {"text": text}
        for name, tower in self.towers.items():
            items, counts = given[INPUTS[name]], [int(each) for each in given[COUNTS[name]]]
            self.check(name, items, counts, len(text))
            parts[name] = tower(items, counts, text)
        return parts

    def check(self, modality: str, items: Tensor, counts: list[int], samples: int) -> None:
        """Raises PromptError for items of another shape, and for counts that do not fit them."""
        name, expected = INPUTS[modality], list(self.config.shape(modality))
        if items.dim() != 4 or list(items.shape[1:]) != expected:
            raise PromptError(f"MESM: {name} must be [N, {', '.join(map(str, expected))}], found {list(items.shape)}")
        if len(counts) != samples or min(counts, default=0) < 1:
            raise PromptError(f"MESM: {COUNTS[modality]} must be {samples} numbers of 1 or more, found {counts}")
        if sum(counts) != len(items):
            raise PromptError(f"MESM: {COUNTS[modality]} add up to {sum(counts)}, found {len(items)} {name}")

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, classes]`, of each emotion by itself; labels: 0 and 1 `[B, classes]`."""
        parts = self.features(**batch)
        each = torch.stack([self.heads[name](parts[name]) for name in ("text", "vision", "audio")], -1)
        logits = self.weights(each)[..., 0]
        output = Output(logits=logits, features=parts)
        if labels is None:
            return output
        loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float())
        return output._replace(loss=loss, losses={"emotions": loss})


_TRANSFORMER = {
    "self_attn.out_proj": "attn.o_proj",
    "linear1": "mlp.up_proj",
    "linear2": "mlp.down_proj",
    "norm1": "attn_norm",
    "norm2": "mlp_norm",
}


def official_keys(config: MesmConfig) -> KeyTable:
    """The names of MME2E and MME2E_Sparse -> ours; the face detector's are dropped."""
    inner = dense_keys() if config.threshold is None else sparse_keys(config.widths)
    keys = ALBERT_KEYS.prefixed("T.albert.", "text.")
    rows: list[Row] = [drop("mtcnn.**"), rename("weighted_fusion.weight", "weights.weight")]
    for name, letter in (("vision", "v"), ("audio", "a"), ("text", "t")):
        rows += _pairs({f"{letter}_out": f"heads.{name}"})
        if name == "text":
            continue
        tower = f"towers.{name}"
        keys += inner.prefixed(f"{letter.upper()}.", f"{tower}.vgg.")
        rows += _pairs({f"{letter}_flatten.0": f"{tower}.up", f"{letter}_flatten.2": f"{tower}.down"})
        rows.append(rename(f"{letter}_transformer.cls_emb.weight", f"{tower}.class_token"))
        layer, block = f"{letter}_transformer.encoder.layers.{{}}", f"{tower}.blocks.{{}}"
        rows += _pairs({f"{layer}.{a}": f"{block}.{b}" for a, b in _TRANSFORMER.items()})
        for leaf in ("weight", "bias"):
            thirds = [f"{block}.attn.{each}_proj.{leaf}" for each in "qkv"]
            rows.append(split(f"{layer}.self_attn.in_proj_{leaf}", thirds))
    return keys + KeyTable(tuple(rows))


def _pairs(names: Mapping[str, str]) -> list[Row]:
    return [rename(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in names.items() for leaf in ("weight", "bias")]
