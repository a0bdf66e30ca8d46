"""Causal attention in blocks, over one process or around a ring of them: equal to the whole, without its T x T scores.

    q, k, v [B, H, T, E] in blocks of `block` keys -> running maximum, sum and weighted values -> [B, H, T, E]
    ring: process r holds tokens r*T .. r*T + T - 1; its queries stay, keys and values go round to the next process

Ring attention (arXiv 2310.01889) on blockwise attention (2305.19370), as LWM is trained (2402.08268).  `RingMask` goes
in place of a MaskSpec: `decoder(embeds, position_ids, RingMask(block=..., group=...))` with this process's tokens and
their positions in the whole sequence.  Gradients flow: the backward pass goes round again with those of the keys.
Traps: every process must hold equally many tokens; padding gets a segment of its own; a cache is not shared out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.nn.mask import MaskSpec, PreparedMask


@dataclass(frozen=True, kw_only=True, eq=False)
class RingMask(MaskSpec):
    """Causal visibility within `segments` [B, T] (of this process's tokens), computed in blocks of `block` keys.

    group: the processes that hold the sequence in order of their ranks, None: this one holds all of it.
    """

    block: int = 1024
    group: Any = None

    def prepare(self, q_len: int, k_len: int, device: torch.device | str | None = None) -> PreparedMask:
        """Raises ConfigError for what blocks do not know: windows, spans in both directions, a cache."""
        others = (self.attention_mask, self.two_way, self.window, self.visible)
        if not self.causal or any(rule is not None for rule in others):
            raise ConfigError("ring attention: expected causal attention within segments; found another rule of a mask "
                              "(give padding a segment of its own instead of an attention_mask)")  # fmt: skip
        if q_len != k_len:
            raise ConfigError(f"ring attention: expected as many keys as queries, found {k_len} and {q_len}; it has no "
                              "cache")  # fmt: skip
        return PreparedMask(kernel=self.attention)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """Attention of `q [B, H, T, E]` over `k, v [B, K, T, E]`, H a multiple of K."""
        return ring_attention(q, k, v, scale=scale, segments=self.segments, block=self.block, group=self.group)


def ring_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    segments: Tensor | None = None,
    block: int = 1024,
    group: Any = None,
) -> Tensor:
    """Causal attention of `q [B, H, T, E]` over `k, v [B, K, T, E]` of all processes of `group`; see the module."""
    if block < 1:
        raise ConfigError(f"ring attention: block: expected 1 or more keys, found {block}")
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    if segments is None:
        segments = torch.zeros(q.shape[0], q.shape[2], dtype=torch.int64, device=q.device)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor = _Ring.apply(q, k, v, segments.expand(q.shape[0], -1), scale, block, group)
    return out


class _Ring(torch.autograd.Function):
    """Forward keeps the result and the logarithm of each query's sum; backward makes the weights again from those."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: Tensor, *settings: Any) -> Tensor:
        scale, block, group = settings
        highest = q.new_full((*q.shape[:3], 1), float("-inf"), dtype=torch.float32)
        total, mixed = torch.zeros_like(highest), torch.zeros_like(q, dtype=torch.float32)
        for keys, values, marks, shift in _round(group, k, v, segments):
            for part in _blocks(q.shape[2], block, shift):
                scores = _scores(q, keys[:, :, part], segments, marks[:, part], scale, shift + part.start)
                new = torch.maximum(highest, scores.amax(-1, keepdim=True))
                # A query that has seen no key yet has no maximum; its weights are 0 all the same.
                weights = (scores - new.nan_to_num(neginf=0.0)).exp()
                fade = (highest - new.nan_to_num(neginf=0.0)).exp()
                total = total * fade + weights.sum(-1, keepdim=True)
                mixed = mixed * fade + weights @ values[:, :, part].float()
                highest = new
        out = (mixed / total).to(q.dtype)  # each query sees itself, so no total is 0
        ctx.save_for_backward(q, k, v, segments, out, highest + total.log())
        ctx.settings = settings
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        q, k, v, segments, out, normaliser = ctx.saved_tensors
        scale, block, group = ctx.settings
        grad = grad.float()
        inner = (grad * out.float()).sum(-1, keepdim=True)
        to_q = torch.zeros_like(q, dtype=torch.float32)
        travelling = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
        for keys, values, marks, to_k, to_v, shift in _round(group, k, v, segments, *travelling):
            for part in _blocks(q.shape[2], block, shift):
                scores = _scores(q, keys[:, :, part], segments, marks[:, part], scale, shift + part.start)
                weights = (scores - normaliser).exp()
                to_v[:, :, part] += weights.transpose(-1, -2) @ grad
                pull = weights * (grad @ values[:, :, part].float().transpose(-1, -2) - inner) * scale
                to_q += pull @ keys[:, :, part].float()
                to_k[:, :, part] += pull.transpose(-1, -2) @ q.float()
        _, _, _, to_k, to_v = _home(group, keys, values, marks, to_k, to_v)
        return to_q.to(q.dtype), to_k.to(k.dtype), to_v.to(v.dtype), None, None, None, None


def _scores(q: Tensor, k: Tensor, own: Tensor, other: Tensor, scale: float, first: int) -> Tensor:
    """Scores float32 [B, H, T, S], -inf where nothing may be seen; first: of the keys, counted from the first query."""
    scores = (q.float() * scale) @ k.float().transpose(-1, -2)
    query = torch.arange(q.shape[2], device=q.device)[:, None]
    key = torch.arange(first, first + k.shape[2], device=q.device)
    allowed = (key <= query)[None] & (own[:, :, None] == other[:, None, :])
    return scores.masked_fill(~allowed[:, None], float("-inf"))


def _blocks(length: int, block: int, shift: int) -> Iterator[slice]:
    """Blocks of keys that some query may see: none of a process that holds later tokens."""
    return (slice(at, min(at + block, length)) for at in range(0, length if shift <= 0 else 0, block))


def _round(group: Any, *tensors: Tensor) -> Iterator[Any]:
    """What each process of the ring holds, this one's first; with the place of its first token from ours.

    Tensors of this process travel with the keys: what is added to them here goes on to the next.
    """
    count, rank = _size(group)
    held = tuple(each.contiguous() for each in tensors)
    for step in range(count):
        owner = (rank - step) % count
        yield *held, (owner - rank) * tensors[0].shape[2]
        if step < count - 1:
            held = _passed(group, *held)


def _home(group: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The last step of a round, after which everybody holds his own again."""
    return _passed(group, *tensors) if _size(group)[0] > 1 else tensors


def _size(group: Any) -> tuple[int, int]:
    """(processes, this one's number)."""
    return (1, 0) if group is None else (dist.get_world_size(group), dist.get_rank(group))


def _passed(group: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Send to the next process, receive from the one before."""
    count, rank = _size(group)
    after, before = (dist.get_global_rank(group, (rank + way) % count) for way in (1, -1))
    found = tuple(torch.empty_like(each) for each in tensors)
    calls: list[tuple[Callable[..., Any], Tensor, int]] = []
    for sent, received in zip(tensors, found, strict=True):
        calls += [(dist.isend, sent, after), (dist.irecv, received, before)]
    for work in dist.batch_isend_irecv([dist.P2POp(call, tensor, peer, group) for call, tensor, peer in calls]):
        work.wait()
    return found
