"""Google's large Vision Transformers without a class token: ViT-e (4B) and ViT-22B; no weights were ever released.

Papers: PaLI (arXiv 2209.06794) for ViT-e, Scaling ViT to 22 billion parameters (arXiv 2302.05442).

    ViT-e     x + attn(norm(x)), x + mlp(norm(x)), biases everywhere
    ViT-22B   n = norm(x);  x + attn(n) + mlp(n);  norms of q and k per head; no biases of q, k, v and of norms
    both: every patch, behind the last norm and before any pooling [N, S, D]

Traps: the norms of ViT-22B do not centre, so they are RMS norms, those of q and k too; its MLP and what leaves the
attention keep their biases, unlike PaLM's.  What the pretraining needs behind the patches (attention pooling, 29,593
classes) is in the 3,926M that PaLI counts for ViT-e, and is no part of a system that reads patches.
GELU in its tanh form and eps 1e-6 are those of Google's published ViT code; the papers name neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from polymodal.encoders.google_vit import HF_BASE_KEYS, google_vit
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import RMSNormConfig
from polymodal.weights.keytable import KeyTable, rename

SIZES: dict[str, dict[str, Any]] = {
    "vit": {"hidden_size": 1792, "num_hidden_layers": 56, "num_attention_heads": 16, "intermediate_size": 15360},
    "vit-22b": {"hidden_size": 6144, "num_hidden_layers": 48, "num_attention_heads": 48, "intermediate_size": 24576},
}
"""`model_type` -> the numbers of the published size, ViT-e and ViT-22B."""
COMMON: dict[str, Any] = {"image_size": 224, "patch_size": 14, "layer_norm_eps": 1e-6}


@dataclass(frozen=True, kw_only=True)
class ParallelBlockConfig:
    """One block whose attention and MLP read the same norm."""

    attention: AttentionConfig
    mlp: MLPConfig
    norm: RMSNormConfig

    def build(self) -> ParallelBlock:
        return ParallelBlock(self)


class ParallelBlock(nn.Module):
    """`[N, S, D] -> [N, S, D]`"""

    def __init__(self, config: ParallelBlockConfig) -> None:
        super().__init__()
        self.attn_norm = config.norm.build(config.attention.width)
        self.attn, self.mlp = config.attention.build(), config.mlp.build()

    def forward(self, x: Tensor) -> Tensor:
        seen = self.attn_norm(x)
        return x + self.attn(seen) + self.mlp(seen)


def parse_config(config: Mapping[str, Any]) -> ViTConfig:
    """A table of these numbers -> the encoder; absent ones are those of the published size of its `model_type`.

    Raises ConfigError for another type and for options that are not known.
    """
    kind = config.get("model_type", "vit-22b")
    if kind not in SIZES:
        raise ConfigError(f"vision_config.model_type: expected {' or '.join(SIZES)}, found {str(kind)[:40]!r}")
    given = {**COMMON, **SIZES[kind], **config}
    if unknown := set(given) - {*COMMON, *SIZES[kind], "model_type"}:
        raise ConfigError(f"vision_config: {sorted(unknown)} is not supported; it takes {', '.join(COMMON)}")
    width, heads, eps = given["hidden_size"], given["num_attention_heads"], given["layer_norm_eps"]
    plain = google_vit(width=width, depth=1, heads=heads, patch_size=given["patch_size"], eps=eps,
                       image_size=given["image_size"], activation="gelu_tanh")  # fmt: skip
    mlp = MLPConfig(width=width, ffn_width=given["intermediate_size"], activation="gelu_tanh")
    norm = RMSNormConfig(eps=eps)
    parallel = ParallelBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, out_bias=True, q_norm=norm, k_norm=norm), mlp=mlp, norm=norm
    )
    large = kind == "vit-22b"
    block: Any = parallel if large else replace(plain.blocks[0], mlp=mlp)  # type: ignore[type-var]
    return replace(plain, blocks=(block,) * given["num_hidden_layers"], class_token=False,
                   final_norm=norm if large else plain.final_norm)  # fmt: skip


def keys() -> KeyTable:
    """Names as a ViT of the hub has them -> ours; `query_norm` and `key_norm` are ours alone."""
    normed = (rename(f"encoder.layer.{{}}.attention.attention.{name}_norm.weight",
                     f"blocks.{{}}.attn.{name[0]}_norm.weight") for name in ("query", "key"))  # fmt: skip
    return KeyTable(tuple(normed)) + HF_BASE_KEYS
