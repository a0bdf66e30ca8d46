"""One description of who may see whom, for every attention in the library.

MaskSpec says the rule; ``prepare`` turns it once per forward into what scaled-dot-product attention takes,
and all layers share that.  Nothing masked costs nothing: one query, or a whole causal pass, never builds a dense
mask.  ``attention_mask`` None says that nothing is padded; a mask is never read back from its device to find that
out.  Whoever has the batch on the host knows (the processor gives None, ``padding_mask`` looks once).
The rule:  key j is visible to query i when

    ((not causal or j <= i) and within window) or (i and j belong to the same two_way span)
    and  both in the same segment  and  attention_mask[j]  and  visible[i, j]

Traps: ``attention_mask`` covers ALL keys, cached ones included; the queries are the last ``q_len`` keys.
A row that may see no key (padding, text before the first image) gives exactly zero, not the mean of the
values: ``prepare`` opens such rows for the kernel (no NaN in either direction) and marks them for zeroing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.nn.segments import counted_within


@dataclass(frozen=True, kw_only=True)
class PreparedMask:
    """What one attention call needs. ``allow`` bool [B|1,1,T,S], ``empty`` bool [B|1,1,T,1] rows to zero.

    After ``biased``, ``allow`` is a float [B|1,H,T,S] that is added to the scores: -inf where nothing may be seen.
    ``query_scale`` [B|1,1,T,1]: queries are multiplied by it (attention whose sharpness grows with the position).
    ``kernel(q, k, v, scale)``: computes the attention in place of scaled-dot-product attention (nn/ring_attention.py).
    """

    causal: bool = False
    allow: Tensor | None = None
    empty: Tensor | None = None
    query_scale: Tensor | None = None
    kernel: Callable[[Tensor, Tensor, Tensor, float | None], Tensor] | None = None

    def biased(self, bias: Tensor, q_len: int) -> "PreparedMask":
        """The same visibility with ``bias [B|1, H, T|1, S]`` added to the scores (ALiBi, relative positions).

        Raises ConfigError for a kernel of its own, which takes none.
        """
        if self.kernel is not None:
            raise ConfigError("this kind of attention (ring attention) adds no bias to its scores; use a MaskSpec")
        allow = self.allow
        if self.causal:
            k_len = bias.shape[-1]
            query = torch.arange(k_len - q_len, k_len, device=bias.device)[:, None]
            allow = (torch.arange(k_len, device=bias.device) <= query)[None, None]
        if allow is not None:
            bias = torch.where(allow, bias, float("-inf"))
        elif bias.shape[-2] != q_len:
            bias = bias.expand(-1, -1, q_len, -1)
        return PreparedMask(allow=bias, empty=self.empty, query_scale=self.query_scale)


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskSpec:
    """Visibility rule: attention_mask, segments, two_way ``[B, S]`` over all keys; visible ``[B, T, S]``.

    attention_mask: 1 = real token.  segments: only equal numbers see each other (packed rows).
    two_way: equal numbers above 0 see each other in both directions (an image inside causal text).
    window: a query sees itself and the ``window - 1`` keys before it (and after it when not causal).
    visible: cross-attention's own rule; pass ``causal=False`` with it.
    """

    causal: bool = True
    attention_mask: Tensor | None = None
    segments: Tensor | None = None
    two_way: Tensor | None = None
    window: int | None = None
    visible: Tensor | None = None

    def dense(self, q_len: int, k_len: int, device: torch.device | str | None = None) -> Tensor | None:
        """Bool ``[B|1, 1, T, S]``, True = may see, or None when every query sees every key."""
        self._check(q_len, k_len)
        allow = self._positional(q_len, k_len, device)
        if self.two_way is not None and allow is not None:
            spans = self.two_way.to(device)
            query = spans[:, -q_len:, None]
            allow = allow | ((query == spans[:, None, :]) & (query > 0))[:, None]
        for rule in self._vetoes(q_len, device):
            allow = rule if allow is None else allow & rule
        return allow

    def prepare(self, q_len: int, k_len: int, device: torch.device | str | None = None) -> PreparedMask:
        """The cheapest form for this call; share it between layers of equal window."""
        if self._only_causal(k_len):
            if not self.causal or q_len == 1:
                return PreparedMask()
            if q_len == k_len:
                return PreparedMask(causal=True)
        allow = self.dense(q_len, k_len, device)
        if allow is None:
            return PreparedMask()
        if self.attention_mask is None and self.visible is None:
            return PreparedMask(allow=allow)
        empty = ~allow.any(-1, keepdim=True)
        return PreparedMask(allow=allow | empty, empty=empty)

    def _only_causal(self, k_len: int) -> bool:
        rules = (self.attention_mask, self.segments, self.two_way, self.visible)
        return all(rule is None for rule in rules) and (self.window is None or self.window >= k_len)

    def _positional(self, q_len: int, k_len: int, device: torch.device | str | None) -> Tensor | None:
        narrow = self.window is not None and self.window < k_len
        if not narrow and (not self.causal or q_len == 1):
            return None
        query = torch.arange(k_len - q_len, k_len, device=device)[:, None]
        key = torch.arange(k_len, device=device)[None, :]
        allow = key <= query if self.causal else torch.ones(1, 1, dtype=torch.bool, device=device)
        if narrow:
            assert self.window is not None
            allow = allow & ((query - key).abs() < self.window)
        return allow[None, None]

    def _vetoes(self, q_len: int, device: torch.device | str | None) -> list[Tensor]:
        rules = []
        if self.segments is not None:
            segments = self.segments.to(device)
            rules.append((segments[:, -q_len:, None] == segments[:, None, :])[:, None])
        if self.attention_mask is not None:
            rules.append(self.attention_mask.to(device=device, dtype=torch.bool)[:, None, None, :])
        if self.visible is not None:
            rules.append(self.visible.to(device=device, dtype=torch.bool)[:, None])
        return rules

    def _check(self, q_len: int, k_len: int) -> None:
        for name in ("attention_mask", "segments", "two_way"):
            given: Tensor | None = getattr(self, name)
            if given is not None and (given.dim() != 2 or given.shape[1] != k_len):
                raise ValueError(f"{name} must be [B, {k_len}] over all keys, cached too; found {list(given.shape)}")
        if self.visible is not None and tuple(self.visible.shape[1:]) != (q_len, k_len):
            raise ValueError(f"visible must be [B, {q_len}, {k_len}]; found {list(self.visible.shape)}")


def padding_mask(attention_mask: Tensor | None) -> Tensor | None:
    """``attention_mask [B, T]``, or None where it lies on the host and no token of it is padding.

    For the border of a model, once per batch.  A mask on an accelerator stays as it is: reading it would make the
    host wait, and the dense mask gives the same numbers.
    """
    if attention_mask is None or attention_mask.device.type != "cpu" or torch.compiler.is_compiling():
        return attention_mask
    return None if bool(attention_mask.all()) else attention_mask


def position_ids_from_mask(attention_mask: Tensor, segments: Tensor | None = None) -> Tensor:
    """Positions ``[B, T]`` that count real tokens from 0 on either side's padding; padding gets 0.

    segments ``[B, T]``: positions begin at 0 again with every segment of a packed row.
    """
    real = attention_mask.long()
    count = real.cumsum(-1)
    if segments is not None:
        count = counted_within(count, real, segments)
    return (count - 1).clamp_min(0)
