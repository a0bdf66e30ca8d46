"""EVA-02, the encoder of CogAgent's large pictures: a pre-norm ViT with rotary positions and norms inside its branches.

Papers: EVA-02 (arXiv 2303.11331), EVA-CLIP (2303.15389); CogAgent (2312.08914) runs its L at 1120 pixels.

Flow
    pixel_values -> patch convolution, class token, learned positions -> blocks -> features without class token
    block: x + out(norm(attn(norm(x)))), then x + down(norm(silu(gate) * up))
    queries and keys of patches are turned by their row (first half of a head) and their column (second half)

Traps
- The rotary grid is that of pretraining: at another size, patch i of n stands at i / n * `trained_side`.
- The class token is not turned; keys have no bias.
- CogAgent leaves out the last block, the last norm and the head, though its files hold their weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymodal.encoders.vit import ClassHeadConfig, ViTBlockConfig, ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import Attention, AttentionConfig, AttentionLinears
from polymodal.nn.linear import LinearConfig, NormedLinearConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.nn.rope import RopeConfig, Rotation
from polymodal.weights.keytable import KeyTable, Row, drop, rename
from polymodal.weights.operations import Squeeze


@dataclass(frozen=True, kw_only=True)
class GridAttentionConfig:
    """Attention over a class token and a square grid of `side` x `side` patches; see the module for `trained_side`."""

    attention: AttentionConfig
    side: int
    trained_side: int = 16
    theta: float = 10000.0

    def __post_init__(self) -> None:
        if self.attention.size % 4 or not self.attention.interleaved:
            raise ConfigError(
                f"grid attention: a head of {self.attention.size} must be a multiple of 4, its pairs interleaved"
            )

    @property
    def width(self) -> int:
        return self.attention.width

    @property
    def heads(self) -> int:
        return self.attention.heads

    def build(self) -> "GridAttention":
        return GridAttention(self)


class GridAttention(Attention):
    """`[N, 1 + side * side, D] -> [N, 1 + side * side, D]`"""

    def __init__(self, config: GridAttentionConfig) -> None:
        super().__init__(config.attention)
        self.grid = config
        half = config.attention.size // 4
        self.rope = RopeConfig(
            head_dim=config.attention.size, theta=config.theta, interleaved=True, sections=(half, half), restart=True
        ).build()

    def forward(self, x: Tensor, mask: Any = None, *more: Any, **others: Any) -> Tensor:
        """As Attention, with the grid's rotation."""
        return super().forward(x, mask, self.rotation(x.device, x.dtype), *more, **others)

    def rotation(self, device: torch.device, dtype: torch.dtype) -> Rotation:
        """cos and sin [1, 1, 1 + side * side, E]; the class token stands at the origin, where nothing turns."""
        side = self.grid.side
        steps = torch.arange(side, device=device, dtype=torch.float32) / side * self.grid.trained_side
        rows, columns = steps.repeat_interleave(side), steps.repeat(side)
        places = torch.nn.functional.pad(torch.stack((rows, columns)), (1, 0))
        return self.rope(places[:, None], dtype)


def parse_config(config: Mapping[str, Any]) -> ViTConfig:
    """The encoder by vLLM's words for it (`cross_vision_config`); absent ones are those of EVA02-CLIP-L.

    Its features are those in front of the last block, without class token.  Raises ConfigError for a rotary grid that
    is not rescaled, and for other forms of block.
    """
    wanted = {"intp_freq": True, "naiveswiglu": True, "use_rope": True, "use_abs_pos_emb": True, "postnorm": False,
              "use_rel_pos_bias": False, "use_shared_rel_pos_bias": False, "use_mean_pooling": False,
              "ls_init_value": None, "attn_bias": True, "mlp_hidden_act": "silu"}  # fmt: skip
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise ConfigError(f"eva02: expected {name} {value}, found {config[name]!r}")
    width, patch, size = config.get("hidden_size", 1024), config.get("patch_size", 14), config.get("image_size", 1120)
    norm = LayerNormConfig(eps=config.get("layer_norm_eps", 1e-6))
    attention = AttentionConfig(
        width=width,
        heads=width // config.get("head_width", 64),
        qkv_bias=True,
        out_bias=True,
        interleaved=True,
        linears=AttentionLinears(k=LinearConfig(bias=False), o=NormedLinearConfig(norm=norm)),
    )
    mlp = GatedMLPConfig(width=width, ffn_width=int(width * config.get("mlp_ratio", 2.6667)), bias=True,
                         down=NormedLinearConfig(norm=norm))  # fmt: skip
    grid = GridAttentionConfig(attention=attention, side=size // patch, trained_side=config.get("pt_hw_seq_len", 16))
    return ViTConfig(
        image_size=size,
        patch_size=patch,
        width=width,
        blocks=(ViTBlockConfig(attention=grid, mlp=mlp, norm=norm),) * config.get("layers", 24),
        channels=config.get("in_channels", 3),
        final_norm=norm,
        head=ClassHeadConfig(out_width=config.get("final_embed_dim", 768)),
        layer=-2,
        keep_class=False,
    )


def eva_keys() -> KeyTable:
    """EVA's own names -> ours."""
    rows: list[Row] = [
        *(drop(f"{part}rope.freqs_{table}") for part in ("", "blocks.{}.attn.") for table in ("cos", "sin")),
        rename("cls_token", "class_token", Squeeze(0), Squeeze(0)), rename("pos_embed", "positions", Squeeze(0)),
        *_pair("patch_embed.proj", "patch_embed"), *_pair("norm", "final_norm"), *_pair("head", "head.proj"),
        *(rename(f"blocks.{{}}.attn.{x}_proj.weight", f"blocks.{{}}.attn.{x}_proj.weight") for x in "qkv"),
        *(rename(f"blocks.{{}}.attn.{x}_bias", f"blocks.{{}}.attn.{x}_proj.bias") for x in "qv"),
        *_pair("blocks.{}.norm1", "blocks.{}.attn_norm"), *_pair("blocks.{}.norm2", "blocks.{}.mlp_norm"),
        *_pair("blocks.{}.attn.inner_attn_ln", "blocks.{}.attn.o_proj.norm"),
        *_pair("blocks.{}.attn.proj", "blocks.{}.attn.o_proj.linear"),
        *_pair("blocks.{}.mlp.w1", "blocks.{}.mlp.gate_proj"), *_pair("blocks.{}.mlp.w2", "blocks.{}.mlp.up_proj"),
        *_pair("blocks.{}.mlp.ffn_ln", "blocks.{}.mlp.down_proj.norm"),
        *_pair("blocks.{}.mlp.w3", "blocks.{}.mlp.down_proj.linear"),
    ]  # fmt: skip
    return KeyTable(tuple(rows))


def _pair(source: str, target: str) -> tuple[Row, Row]:
    return rename(f"{source}.weight", f"{target}.weight"), rename(f"{source}.bias", f"{target}.bias")
