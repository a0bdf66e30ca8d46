"""The one autoregressive decoder: an explicit list of blocks between an embedding and a head.

    inputs_embeds [B,T,D] -> blocks -> norm -> hidden [B,T,D]          (forward)
    block:  x + cross(x, context)?  ->  x + attn(attn_norm(x))  ->  x + mlp(mlp_norm(x))      (order "pre")
            the cross step may stand behind the attention (`cross_at` "middle", CogAgent)
    embed(input_ids) -> inputs_embeds                head(hidden) -> logits [B,T,V]
Other orders: "post" norm(x + f(x)) (OPT-350m), "swin" x + norm(f(x)) (Chameleon-34B), "residual" s * n + f(n) with
n = norm(x) (BLOOM's option with s = 1, ChatGLM), "shared" x + attn(n) + mlp(n) with n = attn_norm(x) (Phi), and
``parallel`` x + attn(attn_norm(x)) + mlp(mlp_norm(x)) (GPT-NeoX).

What differs between LLaMA, Qwen2, Mistral and Gemma is which child configs fill the slots.  The four ways a
modality may enter need no flag: A ``cross`` child and ``context`` argument; B any linear or norm may be routed by
``token_types``, ``mlp`` may be a mixture of experts; C features are spliced into ``inputs_embeds`` before the
call; D vocabulary and head are sized by ``vocab_size``.
Traps: positions and mask come from the caller, the decoder never recomputes them; ``embed`` scales (Gemma), so
features spliced in afterwards are not scaled; ``mask`` None means plain causal without padding.
"""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig, narrowed
from polymodal.nn.cache import KVCache, LayerCache
from polymodal.nn.constant import constant
from polymodal.nn.linear import Linear, linear
from polymodal.nn.mask import MaskSpec, PreparedMask, position_ids_from_mask
from polymodal.nn.mlp import FeedForwardConfig
from polymodal.nn.moe import MoE, RouterLogits
from polymodal.nn.native.blocks import BlocksCache
from polymodal.nn.norm import NormConfig, RMSNormConfig
from polymodal.nn.quantise import Int8Linear, quantise_linears
from polymodal.nn.rope import RopeConfig, Rotation
from polymodal.nn.token_types import TokenTypes
from polymodal.weights.keytable import Row, drop, rename

_NATIVE = BlocksCache()


class CrossConfig(Protocol):
    """What may stand in a block's ``cross`` slot: its module is called as ``f(x, context, cache)`` and returns
    what is added to ``x``; rows that see no item must get exactly zero."""

    def build(self) -> nn.Module: ...


class PositionsConfig(Protocol):
    """Absolute positions: ``build(width)`` gives a module called as ``f(position_ids [B, T]) -> [B, T, D]``."""

    def build(self, width: int) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class LearnedPositionsConfig:
    """A table of ``count + offset`` rows, read at ``position + offset`` (OPT: offset 2)."""

    count: int
    offset: int = 0

    def build(self, width: int) -> "LearnedPositions":
        return LearnedPositions(self.count + self.offset, width, self.offset)


class LearnedPositions(nn.Embedding):
    """``position_ids [B, T] -> [B, T, D]``"""

    def __init__(self, rows: int, width: int, offset: int):
        super().__init__(rows, width)
        nn.init.normal_(self.weight, std=0.02)
        self.offset = offset

    def forward(self, position_ids: Tensor) -> Tensor:
        return super().forward(position_ids + self.offset)


@dataclass(frozen=True, kw_only=True)
class DecoderBlockConfig:
    """One block. ``norm`` fills both norm slots unless ``mlp_norm`` is given; order: see the module.

    residual_scale: of what passes by in the order "residual".  cross_at: in front of the block or between its steps.
    """

    attention: AttentionConfig
    mlp: FeedForwardConfig
    norm: NormConfig = field(default_factory=RMSNormConfig)
    mlp_norm: NormConfig | None = None
    cross: CrossConfig | None = None
    cross_at: Literal["front", "middle"] = "front"
    order: Literal["pre", "post", "swin", "residual", "shared"] = "pre"
    parallel: bool = False
    residual_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.parallel and self.order != "pre":
            raise ConfigError(f"decoder block: parallel needs order 'pre', found {self.order!r}")
        if self.cross_at == "middle" and (self.parallel or self.order != "pre"):
            raise ConfigError(f"decoder block: cross_at 'middle' needs order 'pre' in sequence, found {self.order!r}")
        if self.residual_scale != 1.0 and self.order != "residual":
            raise ConfigError(f"decoder block: residual_scale needs order 'residual', found {self.order!r}")

    def build(self) -> "DecoderBlock":
        return DecoderBlock(self)


class DecoderBlock(nn.Module):
    """``[B, T, D] -> [B, T, D]``"""

    def __init__(self, config: DecoderBlockConfig):
        super().__init__()
        width = config.attention.width
        self.cross = None if config.cross is None else config.cross.build()
        self.attn_norm = config.norm.build(width)
        self.attn = config.attention.build()
        self.mlp_norm = nn.Identity() if config.order == "shared" else (config.mlp_norm or config.norm).build(width)
        self.mlp = config.mlp.build()
        self.order, self.parallel, self.residual_scale = config.order, config.parallel, config.residual_scale
        self.cross_at = config.cross_at
        self._is_mixture = isinstance(self.mlp, MoE)

    def forward(
        self,
        x: Tensor,
        mask: PreparedMask,
        rope: Rotation | None,
        cache: LayerCache | None = None,
        context: Any = None,
        token_types: TokenTypes | None = None,
        router_logits: RouterLogits | None = None,
    ) -> Tensor:
        """router_logits: receives the gate logits of a mixture of experts; see ``nn/moe.py``."""
        routes = {"router_logits": router_logits} if self._is_mixture else {}
        cross = None if context is None else self.cross
        if cross is not None and self.cross_at == "front":
            x = x + cross(x, context, cache)
        prompt = context if self.attn.prefix is not None else None
        if self.order == "pre":
            mixed = self.attn(self.attn_norm(x, token_types), mask, rope, cache, prompt, token_types)
            if self.parallel:
                return x + mixed + self.mlp(self.mlp_norm(x, token_types), token_types, **routes)
            x = x + mixed
            if cross is not None and self.cross_at == "middle":
                x = x + cross(x, context, cache)
            return x + self.mlp(self.mlp_norm(x, token_types), token_types, **routes)
        if self.order == "shared":
            seen = self.attn_norm(x, token_types)
            return x + self.attn(seen, mask, rope, cache, prompt, token_types) + self.mlp(seen, token_types, **routes)
        if self.order == "residual":
            x = self.attn_norm(x, token_types)
            mixed = self.attn(x, mask, rope, cache, prompt, token_types)
            x = self.mlp_norm(x * self.residual_scale + mixed, token_types)
            return x * self.residual_scale + self.mlp(x, token_types, **routes)
        if self.order == "swin":
            x = x + self.attn_norm(self.attn(x, mask, rope, cache, prompt, token_types), token_types)
            return x + self.mlp_norm(self.mlp(x, token_types, **routes), token_types)
        x = self.attn_norm(x + self.attn(x, mask, rope, cache, prompt, token_types), token_types)
        return self.mlp_norm(x + self.mlp(x, token_types, **routes), token_types)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """``embed_scale`` multiplies embeddings (Gemma), ``input_scale`` all that enters, spliced features too (KOSMOS).

    tied: the head reads the embedding's weight.
    norm: after the last block, None for none.  positions: added to what enters the first block.  embed_norm: of what
    enters the first block (BLOOM).  embed_width: tokens and head have a width of their own, projected (OPT-350m).
    alibi: one slope per head (arXiv 2108.12409); scores get slope * position of the key.
    log_scaled_from: a query behind the first n tokens is multiplied by the logarithm of its place to the base n.
    """

    vocab_size: int
    width: int
    blocks: tuple[DecoderBlockConfig, ...]
    norm: NormConfig | None = field(default_factory=RMSNormConfig)
    rope: RopeConfig | None = None
    positions: PositionsConfig | None = None
    alibi: tuple[float, ...] | None = None
    log_scaled_from: int | None = None
    embed_norm: NormConfig | None = None
    embed_width: int | None = None
    tied: bool = False
    head_bias: bool = False
    embed_scale: float | None = None
    input_scale: float | None = None
    max_length: int = 2048

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ConfigError("a decoder needs at least one block")
        if not isinstance(self.max_length, int) or self.max_length < 1:
            raise ConfigError(f"a decoder's context has a whole number of tokens, found {str(self.max_length)[:40]!r}")
        for i, block in enumerate(self.blocks):
            if block.attention.width != self.width:
                raise ConfigError(f"block {i} has width {block.attention.width}, the decoder {self.width}")
            if self.rope is not None and block.attention.interleaved != self.rope.interleaved:
                raise ConfigError(f"block {i} and the rope must agree on interleaved")
        if self.tied and self.head_bias:
            raise ConfigError("a decoder's tied head has no bias of its own; set tied or head_bias, not both")
        if len({(b.attention.key_heads, b.attention.size) for b in self.blocks}) > 1:
            raise ConfigError("all blocks need the same kv_heads and head_dim, one cache holds them all")

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def build(self) -> "Decoder":
        return Decoder(self)


class Decoder(nn.Module):
    """See the module docstring. ``config`` is the DecoderConfig it was built from."""

    lm_head: Linear | Int8Linear | None

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        outer = config.embed_width or config.width
        self.embed_tokens = nn.Embedding(config.vocab_size, outer)
        # Torch's unit variance would give a tied head logits of scale sqrt(width).
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.norm = None if config.norm is None else config.norm.build(config.width)
        projected = config.embed_width is not None
        self.project_in = Linear(outer, config.width, bias=False) if projected else None
        self.project_out = Linear(config.width, outer, bias=False) if projected else None
        self.positions = None if config.positions is None else config.positions.build(config.width)
        self.embed_norm = None if config.embed_norm is None else config.embed_norm.build(config.width)
        self.lm_head = None if config.tied else Linear(outer, config.vocab_size, bias=config.head_bias)
        self.rope = None if config.rope is None else config.rope.build()
        self._windows = [block.attention.window for block in config.blocks]

    def embed(self, input_ids: Tensor) -> Tensor:
        """``input_ids [B, T]`` int64 -> ``[B, T, D]``, scaled where the family scales."""
        embeds = self.embed_tokens(input_ids)
        if self.project_in is not None:
            embeds = self.project_in(embeds)
        if self.config.embed_scale is None:
            return embeds
        # The factor is rounded to the weights' dtype first, as the family was trained.
        return embeds * _rounded(self.config.embed_scale, embeds.dtype)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        mask: MaskSpec | None = None,
        token_types: Tensor | None = None,
        context: Any = None,
        cache: KVCache | None = None,
        router_logits: RouterLogits | None = None,
    ) -> Tensor:
        """Hidden states ``[B, T, D]`` after the final norm.

        position_ids: ``[B, T]`` (``[1, T]`` serves all rows) or ``[axes, B, T]``.  mask: over cached and new
        keys; its ``segments`` are the sequences of packed rows.  token_types ``[B, T]``, which slots get as TokenTypes.
        context: what the ``cross`` children take.  cache: written in place and advanced by T.  router_logits: collects
        the gate logits of mixtures of experts (``nn/moe.py``).  Raises PromptError when the cache is too small.
        """
        count = inputs_embeds.shape[1]
        total = count if cache is None else cache.length + count
        mask = MaskSpec() if mask is None else mask
        prepared = {
            window: narrowed(mask, window).prepare(count, total, inputs_embeds.device) for window in set(self._windows)
        }
        if self.config.alibi is not None:
            bias = self._alibi(mask, total, inputs_embeds)
            prepared = {window: each.biased(bias, count) for window, each in prepared.items()}
        if self.config.log_scaled_from is not None:
            scale = log_scale(position_ids, self.config.log_scaled_from, inputs_embeds.dtype)
            prepared = {window: replace(each, query_scale=scale) for window, each in prepared.items()}
        segments = None if mask.segments is None else mask.segments[:, -count:]
        rope = None if self.rope is None else self.rope(position_ids, inputs_embeds.dtype, segments)
        kinds = TokenTypes.of(token_types)
        x = inputs_embeds
        if self.config.input_scale is not None:
            x = x * self.config.input_scale
        if self.positions is not None:
            x = x + self.positions(position_ids).to(x.dtype)
        if self.embed_norm is not None:
            x = self.embed_norm(x, kinds)
        native: Tensor | None = None
        if cache is not None and context is None and len(prepared) == 1:
            blocks = _NATIVE.of(self, self.blocks)
            native = None if blocks is None else blocks.run(x, prepared[self._windows[0]], rope, cache)
        for i, block in enumerate(self.blocks if native is None else ()):
            layer = None if cache is None else cache.layer(i)
            x = block(x, prepared[self._windows[i]], rope, layer, context, kinds, router_logits)
        x = x if native is None else native
        if cache is not None:
            cache.advance(count)
        return x if self.norm is None else self.norm(x, kinds)

    def _alibi(self, mask: MaskSpec, total: int, like: Tensor) -> Tensor:
        """``[B|1, H, 1, S]``: slope times the key's position; counting from the query would differ by a constant."""
        slopes = constant(self.config.alibi or (), torch.float32, like.device)
        given = mask.segments if mask.attention_mask is None else mask.attention_mask
        if given is None:
            positions = torch.arange(total, device=like.device)[None]
        else:
            real = torch.ones_like(given) if mask.attention_mask is None else given
            positions = position_ids_from_mask(real.to(like.device), mask.segments)
        return (slopes[None, :, None] * positions[:, None, :].float()).to(like.dtype)[:, :, None]

    def head(self, hidden: Tensor) -> Tensor:
        """``[..., D] -> logits [..., V]``; pass only the positions whose logits are wanted."""
        if self.project_out is not None:
            hidden = self.project_out(hidden)
        return linear(hidden, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)

    def quantise(self, kind: str = "int8") -> None:
        """Small weights in place, for faster steps on a CPU: linears of the blocks, the head (int8), not the embedding.

        kind: "int8" or "int4".
        """
        quantise_linears(self.blocks, kind)
        if isinstance(self.lm_head, Int8Linear):
            return
        if self.lm_head is None:
            self.lm_head = Int8Linear.of(self.embed_tokens.weight)
        elif type(self.lm_head) is Linear:  # another kind of head stays as it is
            self.lm_head = Int8Linear.of(self.lm_head.weight, self.lm_head.bias)

    def new_cache(self, batch: int, capacity: int | None = None) -> KVCache:
        """An empty cache for ``batch`` rows of up to ``capacity`` tokens (default ``max_length``)."""
        attention = self.config.blocks[0].attention
        weight = self.embed_tokens.weight
        return KVCache.allocate(
            layers=len(self.blocks),
            batch=batch,
            kv_heads=attention.key_heads,
            head_dim=attention.size,
            capacity=self.config.max_length if capacity is None else capacity,
            dtype=weight.dtype,
            device=weight.device,
        )


def log_scale(position_ids: Tensor, trained: int, dtype: torch.dtype) -> Tensor:
    """``[B|1, 1, T, 1]``: 1 for the first ``trained`` positions, then log of (position + 1) to the base ``trained``."""
    places = (position_ids + 1).float().clamp_min(trained)
    return (places.log() / math.log(trained)).to(dtype)[:, None, :, None]


@lru_cache(maxsize=16)
def _rounded(factor: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(factor, dtype=dtype, device="cpu"))


def head_row(source: str, embedding: str, *, tied: bool) -> Row:
    """The head of a decoder; tied, a stored copy of the embedding (both by their names in the file) is not used."""
    return drop(source, copy_of=embedding) if tied else rename(source, "lm_head.weight")
