"""A two-way text encoder of BERT's shape, and the sentence encoder all-MiniLM-L6-v2.

BERT (arXiv 1810.04805): word + position + segment embeddings -> norm -> post-norm blocks
    x = norm(x + attention(x));  x = norm(x + mlp(x))
Sentence embedding (Sentence-BERT, arXiv 1908.10084): mean of the last states over real tokens, unit length.

Traps: post-norm (the norm follows the sum), eps 1e-12, exact (erf) GELU, and segment 0 is added to every token even
when there is one sentence.  The pooler of BERT checkpoints is not part of the sentence embedding and is dropped.
"""

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import FeedForwardConfig, MLPConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename


@dataclass(frozen=True, kw_only=True)
class EncoderBlockConfig:
    """One post-norm block: attention and mlp children, each followed by a sum and a norm."""

    attention: AttentionConfig
    mlp: FeedForwardConfig
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-12))

    def build(self) -> "EncoderBlock":
        return EncoderBlock(self)


class EncoderBlock(nn.Module):
    """``[B, T, D] -> [B, T, D]``"""

    def __init__(self, config: EncoderBlockConfig):
        super().__init__()
        self.attn = config.attention.build()
        self.attn_norm = config.norm.build(config.attention.width)
        self.mlp = config.mlp.build()
        self.mlp_norm = config.norm.build(config.attention.width)

    def forward(self, x: Tensor, mask: PreparedMask | None, token_types: Tensor | None = None) -> Tensor:
        x = self.attn_norm(x + self.attn(x, mask, token_types=token_types), token_types)
        return self.mlp_norm(x + self.mlp(x, token_types), token_types)


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Embeddings and an explicit list of blocks; `positions` is the longest input in tokens."""

    vocab_size: int
    width: int
    blocks: tuple[EncoderBlockConfig, ...]
    positions: int = 512
    segments: int = 2
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-12))

    def build(self) -> "TextEncoder":
        return TextEncoder(self)


class TextEncoder(nn.Module):
    """``input_ids, attention_mask [B, T] -> hidden [B, T, D]``; `sentence` pools them to unit vectors."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.embed_positions = nn.Embedding(config.positions, config.width)
        self.embed_segments = nn.Embedding(config.segments, config.width)
        self.norm = config.norm.build(config.width)
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        length = input_ids.shape[1]
        x = self.embed_tokens(input_ids) + self.embed_positions.weight[:length] + self.embed_segments.weight[0]
        x = self.norm(x)
        mask = MaskSpec(causal=False, attention_mask=attention_mask).prepare(length, length, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x

    def sentence(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """One unit vector a row, ``[B, D]``: the mean over real tokens, normalised."""
        weights = attention_mask[..., None].to(self.embed_tokens.weight.dtype)
        summed = (self(input_ids, attention_mask) * weights).sum(1)
        return F.normalize(summed / weights.sum(1).clamp(min=1), dim=-1)


def bert(width: int, depth: int, heads: int, ffn_width: int, vocab_size: int = 30522) -> TextEncoderConfig:
    """BERT's shape at any size, every block alike."""
    block = EncoderBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=ffn_width, activation="gelu", bias=True),
    )
    return TextEncoderConfig(vocab_size=vocab_size, width=width, blocks=(block,) * depth)


MINILM_L6 = bert(width=384, depth=6, heads=12, ffn_width=1536)
"""all-MiniLM-L6-v2, 22.6 M parameters, 384 numbers a sentence, at most 256 tokens in its training (Apache-2.0)."""


def _pair(source: str, target: str) -> list[Row]:
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]


_LAYER = "encoder.layer.{}"
BERT_KEYS = KeyTable(
    (
        drop("embeddings.position_ids"),
        drop("pooler.**"),
        rename("embeddings.word_embeddings.weight", "embed_tokens.weight"),
        rename("embeddings.position_embeddings.weight", "embed_positions.weight"),
        rename("embeddings.token_type_embeddings.weight", "embed_segments.weight"),
        *_pair("embeddings.LayerNorm", "norm"),
        *_pair(f"{_LAYER}.attention.self.query", "blocks.{}.attn.q_proj"),
        *_pair(f"{_LAYER}.attention.self.key", "blocks.{}.attn.k_proj"),
        *_pair(f"{_LAYER}.attention.self.value", "blocks.{}.attn.v_proj"),
        *_pair(f"{_LAYER}.attention.output.dense", "blocks.{}.attn.o_proj"),
        *_pair(f"{_LAYER}.attention.output.LayerNorm", "blocks.{}.attn_norm"),
        *_pair(f"{_LAYER}.intermediate.dense", "blocks.{}.mlp.up_proj"),
        *_pair(f"{_LAYER}.output.dense", "blocks.{}.mlp.down_proj"),
        *_pair(f"{_LAYER}.output.LayerNorm", "blocks.{}.mlp_norm"),
    )
)
"""`transformers` BertModel names -> ours."""
