"""HuBERT, the encoder of speech whose features are clustered into units (arXiv 2106.07447), in its base order of norms.

    samples [N, n] at 16 kHz -> 7 convolutions, GELU, a norm of each channel after the first [N, 512, T]
        -> norm -> linear [N, T, D] -> + GELU(convolution of 128 frames), its weights normalised -> norm
        -> depth x (attention, MLP; both post-norm) -> features [N, T, D], one for each 20 ms

Layers count from 1: features of layer 11 are what the eleventh block gives, so only `depth` blocks are built and a
file's further ones are dropped by name.
Traps: the convolution of positions has an even kernel, its last output is cut; a batch has recordings of one length,
since the norm of each channel runs over the whole recording, padding and all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, MediaError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PostNormBlockConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename
from polymodal.weights.weight_norm import NAMES, folded

RATE = 16_000


@dataclass(frozen=True, kw_only=True)
class HubertConfig:
    """conv_widths, kernels, strides: of each convolution.  position_kernel, position_groups: of the one of positions.

    depth: blocks that are built; layers: those of the file.  per_channel: a norm of each channel after the first
    convolution alone; False: a layer norm after every one.
    """

    width: int = 768
    depth: int = 12
    layers: int = 12
    heads: int = 12
    ffn_width: int = 3072
    conv_widths: tuple[int, ...] = (512,) * 7
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    per_channel: bool = True
    position_kernel: int = 128
    position_groups: int = 16
    activation: str = "gelu"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if not len(self.conv_widths) == len(self.kernels) == len(self.strides) or not self.kernels:
            raise ConfigError("hubert: conv_dim, conv_kernel and conv_stride need one entry for each convolution")
        if not 1 <= self.depth <= self.layers:
            raise ConfigError(f"hubert: layer {self.depth} is asked for, the model has 1..{self.layers}")

    @property
    def shortest(self) -> int:
        """Samples that give one feature."""
        length = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            length = (length - 1) * stride + kernel
        return length

    def build(self) -> Hubert:
        return Hubert(self)


class ConvLayer(nn.Module):
    """[N, C, n] -> [N, C', n'], normed and through the activation."""

    def __init__(self, config: HubertConfig, index: int) -> None:
        super().__init__()
        widths = (1, *config.conv_widths)
        self.conv = nn.Conv1d(widths[index], widths[index + 1], config.kernels[index], config.strides[index],
                              bias=config.conv_bias)  # fmt: skip
        self.norm: nn.Module | None = None
        self.per_channel = config.per_channel
        if config.per_channel and index == 0:
            self.norm = nn.GroupNorm(widths[1], widths[1])
        elif not config.per_channel:
            self.norm = nn.LayerNorm(widths[index + 1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x) if self.per_channel else self.norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)


class Hubert(nn.Module):
    """See the module docstring."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.config = config
        norm = LayerNormConfig(eps=config.eps)
        self.convs = nn.ModuleList(ConvLayer(config, index) for index in range(len(config.kernels)))
        self.conv_norm = norm.build(config.conv_widths[-1])
        self.proj = nn.Linear(config.conv_widths[-1], config.width)
        self.positions = nn.Conv1d(config.width, config.width, config.position_kernel,
                                   padding=config.position_kernel // 2, groups=config.position_groups)  # fmt: skip
        self.norm = norm.build(config.width)
        block = PostNormBlockConfig(
            attention=AttentionConfig(width=config.width, heads=config.heads, qkv_bias=True, out_bias=True),
            mlp=MLPConfig(width=config.width, ffn_width=config.ffn_width, activation=config.activation),
            norm=norm,
        )
        self.blocks = nn.ModuleList(block.build() for _ in range(config.depth))

    def forward(self, samples: Tensor) -> Tensor:
        """[N, n] -> [N, T, D].  Raises MediaError for recordings too short for one feature."""
        if samples.shape[-1] < self.config.shortest:
            raise MediaError(
                f"the recording has {samples.shape[-1]} samples at 16 kHz; one unit needs {self.config.shortest}"
            )
        x = samples[:, None]
        for conv in self.convs:
            x = conv(x)
        x = self.proj(self.conv_norm(x.transpose(1, 2)))
        placed = self.positions(x.transpose(1, 2))[..., : x.shape[1]]
        x = self.norm(x + F.gelu(placed).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        return x


_OTHER = {"do_stable_layer_norm": False, "feat_proj_layer_norm": True, "conv_pos_batch_norm": False,
          "feat_extract_activation": "gelu"}  # fmt: skip


def parse_config(config: Mapping[str, Any], layer: int | None = None) -> HubertConfig:
    """A HubertConfig dict at any size; layer: whose features are wanted, None: the last.

    Raises ConfigError for the order of norms of the large models and other options that are not supported.
    """
    for name, value in _OTHER.items():
        if config.get(name, value) != value:
            raise ConfigError(f"hubert: {name}: expected {value!r} (HuBERT base), found {config[name]!r}")
    kind = config.get("feat_extract_norm", "group")
    if kind not in ("group", "layer"):
        raise ConfigError(f"hubert: feat_extract_norm: expected 'group' or 'layer', found {kind!r}")
    base = HubertConfig()
    layers = config.get("num_hidden_layers", base.layers)
    return HubertConfig(
        width=config.get("hidden_size", base.width),
        depth=layers if layer is None else layer,
        layers=layers,
        heads=config.get("num_attention_heads", base.heads),
        ffn_width=config.get("intermediate_size", base.ffn_width),
        conv_widths=tuple(config.get("conv_dim", base.conv_widths)),
        kernels=tuple(config.get("conv_kernel", base.kernels)),
        strides=tuple(config.get("conv_stride", base.strides)),
        conv_bias=config.get("conv_bias", False),
        per_channel=kind == "group",
        position_kernel=config.get("num_conv_pos_embeddings", base.position_kernel),
        position_groups=config.get("num_conv_pos_embedding_groups", base.position_groups),
        activation=config.get("hidden_act", base.activation),
        eps=config.get("layer_norm_eps", base.eps),
    )


_HF = {"attention.q_proj": "attn.q_proj", "attention.k_proj": "attn.k_proj", "attention.v_proj": "attn.v_proj",
       "attention.out_proj": "attn.o_proj", "layer_norm": "attn_norm",
       "feed_forward.intermediate_dense": "mlp.up_proj", "feed_forward.output_dense": "mlp.down_proj",
       "final_layer_norm": "mlp_norm"}  # fmt: skip
_FAIRSEQ = {"self_attn.q_proj": "attn.q_proj", "self_attn.k_proj": "attn.k_proj", "self_attn.v_proj": "attn.v_proj",
            "self_attn.out_proj": "attn.o_proj", "self_attn_layer_norm": "attn_norm", "fc1": "mlp.up_proj",
            "fc2": "mlp.down_proj", "final_layer_norm": "mlp_norm"}  # fmt: skip


def hf_keys(config: HubertConfig) -> tuple[KeyTable, ...]:
    """HubertModel of transformers -> ours, with torch's older and newer names of normalised weights."""
    ends = {"feature_projection.layer_norm": "conv_norm", "feature_projection.projection": "proj",
            "encoder.layer_norm": "norm"}  # fmt: skip
    convs = ("feature_extractor.conv_layers.{}.conv", "feature_extractor.conv_layers.{}.layer_norm")
    rows = _rows(config, convs, ends, _HF, drop("masked_spec_embed"))
    return tuple(
        KeyTable((folded("encoder.pos_conv_embed.conv", "positions", names, dim=2),
                  rename("encoder.pos_conv_embed.conv.bias", "positions.bias"), *rows))
        for names in NAMES
    )  # fmt: skip


def fairseq_keys(config: HubertConfig) -> KeyTable:
    """fairseq's HuBERT -> ours; what only its training needs is dropped."""
    ends = {"layer_norm": "conv_norm", "post_extract_proj": "proj", "encoder.layer_norm": "norm"}
    norm = "feature_extractor.conv_layers.{}.2" + ("" if config.per_channel else ".1")
    training = (drop("mask_emb"), drop("final_proj.**"), drop("label_embs_concat"))
    rows = _rows(config, ("feature_extractor.conv_layers.{}.0", norm), ends, _FAIRSEQ, *training)
    place = folded("encoder.pos_conv.0", "positions", dim=2)
    return KeyTable((place, rename("encoder.pos_conv.0.bias", "positions.bias"), *rows))


def _rows(
    config: HubertConfig, convs: tuple[str, str], ends: Mapping[str, str], inside: Mapping[str, str], *others: Row
) -> list[Row]:
    names = {convs[0]: "convs.{}.conv", convs[1]: "convs.{}.norm", **ends}
    names |= {f"encoder.layers.{{}}.{theirs}": f"blocks.{{}}.{ours}" for theirs, ours in inside.items()}
    unread = [drop(f"encoder.layers.{layer}.**") for layer in range(config.depth, config.layers)]
    return [*others, *unread, *(rename(f"{theirs}.{leaf}", f"{ours}.{leaf}")
                                for theirs, ours in names.items() for leaf in ("weight", "bias"))]  # fmt: skip


def units_of(features: Tensor, centroids: Tensor) -> Tensor:
    """[..., T, D], [K, D] -> int64 [..., T]: the nearest centroid of each feature."""
    distances = features.square().sum(-1, keepdim=True) - 2 * features @ centroids.T + centroids.square().sum(-1)
    return distances.argmin(-1)


def merged(units: list[int]) -> list[int]:
    """Units without repetitions side by side."""
    return [unit for place, unit in enumerate(units) if place == 0 or unit != units[place - 1]]
