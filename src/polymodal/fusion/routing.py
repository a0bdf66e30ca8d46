"""Type B: inside a block, each token goes to the weights of its kind.

    Routed         f(x, token_types): one branch per kind      CogVLM (arXiv 2311.03079), mPLUG-Owl2 (2311.04257)
    RoutedDelta    W x + b + scale * B A x for some kinds      Partial LoRA of InternLM-XComposer2 (2401.16420)
MoE, which routes by a learned gate, is in `nn/moe.py`; prompts inside attention (LLaMA-Adapter) are in `prefix.py`.

`token_types` [B, T] says the kind of every token; `routes[kind]` is the branch.  None means that all tokens are text:
the first branch runs alone and nothing is selected, so decoding and text-only batches cost what the bare model costs.
Two forms give the same numbers: gathered (each branch sees its own tokens, the eager default) and dense (each branch
sees all tokens and a mask selects; static shapes, for compiled graphs).
Traps: which of the tokens around an image count as image differs between systems (CogVLM: the begin marker does, the
end marker does not), so that rule belongs to whoever makes `token_types`, never to a module that sees parts of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.linear import Linear, LinearConfig, ProjectionConfig, linear
from polymodal.nn.mlp import FeedForwardConfig
from polymodal.nn.norm import NormConfig
from polymodal.nn.segments import counted_within, segment_starts
from polymodal.nn.token_types import TokenTypes

TEXT, VISUAL = 0, 1  # the kinds of `token_types` that most systems have


class Routed(nn.Module):
    """Branches of one shape, chosen by token.  ``[..., in] -> [..., out]``

    Raises ConfigError when ``routes`` names a branch that does not exist.
    """

    def __init__(self, branches: Sequence[nn.Module], routes: Sequence[int] = (0, 1), dense: bool = False) -> None:
        super().__init__()
        if not branches or not routes or not all(0 <= route < len(branches) for route in routes):
            raise ConfigError(f"routed: routes {tuple(routes)} must name branches 0..{len(branches) - 1}")
        self.branches = nn.ModuleList(branches)
        self.routes = tuple(routes)
        self.dense = dense

    def forward(self, x: Tensor, token_types: Tensor | TokenTypes | None = None) -> Tensor:
        """``token_types [B, T]`` int64 below ``len(routes)``; None: all text.

        In training every branch takes part, if only with no token, so that all ranks have gradients of the same
        parameters.
        """
        if len(self.branches) == 1:
            return cast(Tensor, self.branches[self.routes[0]](x))
        if token_types is None:
            return self._text(x)
        if self.dense or torch.compiler.is_compiling():
            return self._dense(x, token_types.kinds if isinstance(token_types, TokenTypes) else token_types)
        return self._gathered(x, token_types if isinstance(token_types, TokenTypes) else TokenTypes(token_types))

    def _text(self, x: Tensor) -> Tensor:
        out: Tensor = self.branches[self.routes[0]](x)
        if self.training:
            for branch in self._others():
                out = out + self.branches[branch](x.reshape(-1, x.shape[-1])[:0]).sum()
        return out

    def _others(self) -> list[int]:
        return sorted(set(self.routes) - {self.routes[0]})

    def _dense(self, x: Tensor, token_types: Tensor) -> Tensor:
        out: Tensor = self.branches[self.routes[0]](x)
        for branch in self._others():
            chosen = torch.zeros_like(token_types, dtype=torch.bool)
            for kind, route in enumerate(self.routes):
                if route == branch:
                    chosen = chosen | (token_types == kind)
            out = torch.where(chosen[..., None], self.branches[branch](x), out)
        return out

    def _gathered(self, x: Tensor, token_types: TokenTypes) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        by_kind = token_types.split(len(self.routes), x.device)
        if sum(len(places) for places in by_kind) != len(flat):
            raise ConfigError(f"routed: token_types must lie in 0..{len(self.routes) - 1}")
        pieces: list[tuple[Tensor, Tensor]] = []
        for branch in sorted(set(self.routes)):
            kinds = [places for places, route in zip(by_kind, self.routes, strict=True) if route == branch]
            places = kinds[0] if len(kinds) == 1 else torch.cat(kinds)
            if len(places) == len(flat) and not self.training:
                return cast(Tensor, self.branches[branch](x))
            if len(places) or self.training:
                pieces.append((places, self.branches[branch](flat[places])))
        first = pieces[0][1]
        out = first.new_empty(len(flat), first.shape[-1])
        for places, values in pieces:
            out.index_copy_(0, places, values)
        return out.view(*x.shape[:-1], -1)


@dataclass(frozen=True, kw_only=True)
class RoutedLinearConfig:
    """For a linear slot: one linear per branch, all of the slot's widths."""

    branches: tuple[ProjectionConfig, ...] = (LinearConfig(), LinearConfig())
    routes: tuple[int, ...] = (0, 1)
    dense: bool = False

    def build(self, in_width: int, out_width: int, bias: bool = False) -> Routed:
        return Routed([b.build(in_width, out_width, bias) for b in self.branches], self.routes, self.dense)


@dataclass(frozen=True, kw_only=True)
class RoutedNormConfig:
    """For a norm slot."""

    branches: tuple[NormConfig, ...]
    routes: tuple[int, ...] = (0, 1)
    dense: bool = False

    def build(self, width: int) -> Routed:
        return Routed([b.build(width) for b in self.branches], self.routes, self.dense)


@dataclass(frozen=True, kw_only=True)
class RoutedMLPConfig:
    """For a block's mlp slot; the branches may differ in everything but the width."""

    branches: tuple[FeedForwardConfig, ...]
    routes: tuple[int, ...] = (0, 1)
    dense: bool = False

    def build(self) -> Routed:
        return Routed([b.build() for b in self.branches], self.routes, self.dense)


def copy_text_branches(module: nn.Module) -> int:
    """Give every branch of every Routed below ``module`` the text branch's weights; how many branches were written.

    Call it after the weights of a language model were loaded into the text branches.  Raises ConfigError when a branch
    has another shape than the text branch.
    """
    count = 0
    for part in module.modules():
        if not isinstance(part, Routed):
            continue
        text = part.branches[part.routes[0]]
        for branch in part.branches:
            if branch is not text:
                _copy(text, branch)
                count += 1
    return count


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    state = source.state_dict()
    places = target.state_dict(keep_vars=True)
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in places.items()}:
        raise ConfigError("routed: a branch differs in shape from the text branch; it cannot start as its copy")
    for name, place in places.items():
        place.copy_(state[name])


class RoutedDelta(Linear):
    """A linear with a low-rank path that only some kinds of token take.  ``[..., in] -> [..., out]``

    ``kinds`` None: every token takes it (LoRA as a fixed part of a published model).  B starts at zero.
    """

    def __init__(self, in_width: int, out_width: int, bias: bool, config: "RoutedDeltaConfig") -> None:
        super().__init__(in_width, out_width, bias=bias)
        self.config = config
        self.lora_A = Linear(in_width, config.rank, bias=False)
        self.lora_B = Linear(config.rank, out_width, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def plain(self, x: Tensor) -> Tensor:
        """The product without the low-rank path."""
        return linear(x, self.weight, self.bias)

    def forward(self, x: Tensor, token_types: Tensor | TokenTypes | None = None) -> Tensor:
        base, kinds = self.plain(x), self.config.kinds
        if kinds is None:
            return base + self._delta(x)
        if token_types is None:
            return base + self._delta(x.reshape(-1, x.shape[-1])[:0]).sum() if self.training else base
        token_types = token_types if isinstance(token_types, TokenTypes) else TokenTypes(token_types)
        if self.config.dense or torch.compiler.is_compiling():
            chosen = torch.zeros_like(token_types.kinds, dtype=torch.bool)
            for kind in kinds:
                chosen = chosen | (token_types.kinds == kind)
            return base + self._delta(x) * chosen[..., None].to(x.dtype)
        by_kind = token_types.split(max(kinds) + 1, x.device)
        places = torch.cat([by_kind[kind] for kind in kinds])
        if not len(places) and not self.training:
            return base
        delta = self._delta(x.reshape(-1, x.shape[-1])[places])
        return base.reshape(-1, base.shape[-1]).index_add(0, places, delta).view_as(base)

    def _delta(self, x: Tensor) -> Tensor:
        delta: Tensor = self.lora_B(self.lora_A(x))
        return delta if self.config.scale == 1.0 else delta * self.config.scale


@dataclass(frozen=True, kw_only=True)
class RoutedDeltaConfig:
    """For a linear slot.  ``scale`` multiplies the low-rank path (alpha / rank where a paper gives alpha)."""

    rank: int
    scale: float = 1.0
    kinds: tuple[int, ...] | None = (VISUAL,)
    bias: bool | None = None
    dense: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"routed delta: rank must be at least 1; found {self.rank}")

    def build(self, in_width: int, out_width: int, bias: bool = False) -> RoutedDelta:
        return RoutedDelta(in_width, out_width, bias if self.bias is None else self.bias, self)


@dataclass(frozen=True)
class PlaceholderRoutes:
    """`prepare_inputs` where exactly the placeholders are visual: adds `token_types` where there are any."""

    placeholder: int

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds nothing to a batch that has its token types."""
        if batch.get("token_types") is not None:
            return {}
        visual = batch["input_ids"] == self.placeholder
        return {"token_types": visual.long()} if bool(visual.any()) else {}


@dataclass(frozen=True)
class ExpertRoutes:
    """`prepare_inputs` of CogVLM: from `token_type_ids` (1 for begin marker, patches and end marker) the routes, the
    positions and the places of the features.

    A visual token takes the visual branch when the next token is visual too: the begin marker does, the end marker does
    not.  All patches of a run share one position; marker and text positions count on.  Padding has no kind.  A run ends
    where a segment of a packed row does.
    """

    input_names = frozenset({"token_type_ids", "image_mask"})

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds nothing to a batch that was prepared already, as the processor does on the host."""
        types = batch.get("token_type_ids")
        if batch.get("image_mask") is not None:
            return {}
        if types is None:
            dummies = "image" in (batch.get("dummy_modalities") or ())  # pictures that stand at no place
            if (batch.get("images") is not None and not dummies) or batch.get("input_ids") is None:
                return {}
            # The published placeholder is the padding id too: of texts alone no padding may be taken for a picture.
            return {"image_mask": torch.zeros_like(batch["input_ids"], dtype=torch.bool)}
        visual = types == VISUAL
        if not bool(visual.any()):
            return {"image_mask": visual}
        segments = batch.get("segments")
        routes = (visual & _behind(visual, segments)).long()
        kinds = types if batch.get("attention_mask") is None else types.masked_fill(batch["attention_mask"] == 0, -1)
        return {
            "token_types": routes,
            "image_mask": visual,
            "position_ids": shared_positions(kinds, segments),
        }


def _behind(chosen: Tensor, segments: Tensor | None) -> Tensor:
    """Bool [B, T]: whether the next token, of the same segment, is chosen; False at the end."""
    found = torch.zeros_like(chosen)
    found[:, :-1] = chosen[:, 1:]
    if segments is not None:
        found[:, :-1] &= ~segment_starts(segments)[:, 1:]
    return found


def before(chosen: Tensor, segments: Tensor | None = None) -> Tensor:
    """Bool [B, T]: whether the token before, of the same segment, is chosen; False at the beginning."""
    found = torch.zeros_like(chosen)
    found[:, 1:] = chosen[:, :-1]
    return found if segments is None else found & ~segment_starts(segments)


def shared_positions(kinds: Tensor, segments: Tensor | None = None) -> Tensor:
    """Positions ``[B, T]`` in which the inner tokens of each visual run have one position.

    kinds: 0 text, 1 visual, -1 padding.  The first and the last token of a run are markers and count like text; a
    step is made at every token that counts and at the first inner one after such a token.  segments ``[B, T]``: the
    sequences of packed rows, each of which begins at 0 and ends its runs.
    """
    visual, text = kinds == VISUAL, kinds == TEXT
    whole = torch.ones_like(visual)
    inside = before(whole, segments), _behind(whole, segments)  # not the first, not the last of its sequence
    edge = visual & (before(text, segments) | _behind(text, segments) | ~inside[0] | ~inside[1])
    counts, inner = text | edge, visual & ~edge
    steps = (inside[0] & (counts | (inner & before(counts, segments)))).long()
    found = steps.cumsum(-1)
    return found if segments is None else counted_within(found, steps, segments)
