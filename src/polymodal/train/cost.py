"""What a part costs in training, read from its module tree (also on the meta device): numbers that a token multiplies
with, and what the forward pass keeps of each token for the backward pass.

    weights(part)   linears and convolutions; of experts and routed branches those that a token takes
    scores(part)    width of all attention together: 4 * scores * T operations a token over T keys, half if causal
    kept(part)      norms keep their input; linears that train theirs; attention its queries, keys, values and output;
                    activations and products of an MLP theirs.  A frozen linear keeps nothing of a token.

Embeddings multiply nothing; a head does.  Traps: these are estimates, measured beside real passes in
tests/train/test_plan.py; a convolution counts once a token, though early layers of a pyramid run over more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from polymodal.fusion.routing import Routed
from polymodal.nn.attention import Attention
from polymodal.nn.mlp import MLP, GatedMLP
from polymodal.nn.moe import MoE
from polymodal.train.parameters import trained_sizes
from polymodal.train.recipe import LoRAConfig, Stage, below

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = ("LayerNorm", "RMSNorm", "OffsetRMSNorm", "HeadLayerNorm", "GroupNorm")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Numbers that stay of a token: in the precision of the pass, and in float32 whatever it is."""

    narrow: float = 0.0
    wide: float = 0.0

    def __add__(self, other: Kept) -> Kept:
        return Kept(narrow=self.narrow + other.narrow, wide=self.wide + other.wide)

    def __mul__(self, factor: float) -> Kept:
        return Kept(narrow=self.narrow * factor, wide=self.wide * factor)


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What a stage trains: names of parameters, and the low-rank paths it puts beside linears, by their dotted path."""

    names: frozenset[str]
    paths: Mapping[str, LoRAConfig]

    @staticmethod
    def of(model: nn.Module, stage: Stage) -> Learning:
        """Of a model that is not prepared for the stage."""
        sizes, _ = trained_sizes(model, stage)
        low_rank = [name.removesuffix(".lora") for name in sizes if name.endswith(".lora")]
        rules = {path: next(each for prefix, each in stage.lora.items() if below(path, prefix)) for path in low_rank}
        return Learning(names=frozenset(sizes), paths=rules)


def weights(part: nn.Module, path: str, learning: Learning) -> tuple[float, float]:
    """Numbers that a token multiplies with in a part that lies at `path` of its model: all, and those that train."""
    if isinstance(part, (nn.Linear, *CONVOLUTIONS)):
        size = float(part.weight.numel())
        return size, size * (f"{path}.weight" in learning.names)
    share = 1 / len(part.branches) if isinstance(part, Routed) else 1.0
    total, trains = 0.0, 0.0
    for name, child in part.named_children():
        one, learned = weights(child, f"{path}.{name}", learning)
        chosen = part.config.top_k / part.config.experts if isinstance(part, MoE) and name == "experts" else share
        total, trains = total + one * chosen, trains + learned * chosen
    return total, trains


def scores(part: nn.Module) -> float:
    """Width of its self-attention, all layers together."""
    layers = [each for each in part.modules() if isinstance(each, Attention) and each.config.source_width is None]
    return float(sum(each.config.heads * each.config.size for each in layers))


def kept(part: nn.Module, path: str, learning: Learning) -> Kept:
    """What stays of a token in a part that gradients pass."""
    if type(part).__name__ in NORMS:
        # The root-mean-square norm also keeps what its weight is multiplied by, where that trains.
        again = "RMS" in type(part).__name__ and f"{path}.weight" in learning.names
        return Kept(wide=width(part) * (2 if again else 1) + 1)
    if isinstance(part, nn.Linear):
        return Kept(narrow=inputs(part, (path,), learning))
    if isinstance(part, Attention):
        return _attention(part, path, learning)
    if isinstance(part, MLP | GatedMLP):
        return _mlp(part, path, learning)
    if isinstance(part, MoE):
        config, one = part.config, kept(part.experts[0], f"{path}.experts.0", learning)
        # The tokens of each expert are gathered, and what it gives is multiplied by its weight.
        return one * config.top_k + Kept(narrow=config.width * (1 + config.top_k) + 2 * config.experts)
    if isinstance(part, Routed):
        branches = [kept(each, f"{path}.branches.{name}", learning) for name, each in part.branches.named_children()]
        return sum(branches, Kept()) * (1 / len(branches)) + Kept(narrow=copied(part))
    found = Kept()
    for name, child in part.named_children():
        found += kept(child, f"{path}.{name}" if path else name, learning)
    return found


def width(norm: nn.Module) -> float:
    """Of what a norm takes."""
    shape = getattr(norm, "normalized_shape", None)
    sizes = [shape[-1]] if shape is not None else [each.shape[-1] for each in norm.parameters()]
    return float(sizes[0]) if sizes else 0.0


def block_width(block: nn.Module) -> float:
    """Of what a block takes and gives: of its first norm."""
    return next((width(each) for each in block.modules() if type(each).__name__ in NORMS), 0.0)


def low_rank(part: nn.Module, path: str, learning: Learning) -> float:
    """Numbers of the low-rank paths in a part."""
    linears = {f"{path}.{name}": each for name, each in part.named_modules() if isinstance(each, nn.Linear)}
    return float(
        sum(
            (rule.rank or 0) * (linears[name].in_features + linears[name].out_features)
            for name, rule in learning.paths.items()
            if name in linears
        )
    )


def inputs(part: nn.Module, paths: Sequence[str], learning: Learning, held: bool = False) -> float:
    """Of linears that take one input, at `paths`: it once if one of them needs it, and what their low-rank paths keep.

    part: one of them, for its width.  held: the input stays for another reason.
    """
    size, shared, own = _in_features(part), False, 0.0
    for path in paths:
        names = [path, *(f"{path}.{name}" for name, each in part.named_modules() if isinstance(each, nn.Linear))]
        shared = shared or any(f"{name}.weight" in learning.names for name in names)
        for low in (learning.paths[name] for name in names if name in learning.paths):
            shared = shared or not low.dropout
            own += (low.rank or 0) + (2 * size if low.dropout else 0)  # the mask, and what it leaves
    return own + (size if shared and not held else 0.0)


def copied(part: nn.Module) -> float:
    """What a part with branches copies of a token when it puts their outputs together, which stays."""
    if not isinstance(part, Routed):
        return 0.0
    linears = [each for each in part.branches[0].modules() if isinstance(each, nn.Linear)]
    return float(linears[-1].out_features) if linears else 0.0


def _in_features(part: nn.Module) -> float:
    return next(float(each.in_features) for each in part.modules() if isinstance(each, nn.Linear))


def _attention(part: Attention, path: str, learning: Learning) -> Kept:
    config = part.config
    queries, keys = config.heads * config.size, config.key_heads * config.size
    own = config.source_width is None  # keys and values of cross-attention are of other tokens
    into = ("q_proj", "k_proj", "v_proj") if own else ("q_proj",)
    narrow = 2 * queries + 2 * keys * own + inputs(part.q_proj, [f"{path}.{name}" for name in into], learning)
    narrow += inputs(part.o_proj, [f"{path}.o_proj"], learning, held=True)
    narrow += sum(copied(getattr(part, name)) for name in (*into, "o_proj"))
    normed = queries * (part.q_norm is not None) + keys * own * (part.k_norm is not None)
    return Kept(narrow=narrow, wide=config.heads + normed)


def _mlp(part: MLP | GatedMLP, path: str, learning: Learning) -> Kept:
    inner, gated = part.config.ffn_width, isinstance(part, GatedMLP)
    into = [f"{path}.{name}" for name in (("gate_proj", "up_proj") if gated else ("up_proj",))]
    narrow = inputs(part.up_proj, into, learning) + inputs(part.down_proj, [f"{path}.down_proj"], learning)
    # The gate before and after its activation, and what it is multiplied by; or the activation's input.
    narrow += sum(map(copied, part.children()))
    return Kept(narrow=narrow + (3 if gated else 1) * inner)
