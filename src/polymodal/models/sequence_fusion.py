"""MulT (arXiv 1906.00295): cross-modal attention between three feature sequences in all six directions.

    text [B, Tt, Ft], audio [B, Ta, Fa], vision [B, Tv, Fv] -> temporal convolution to a common width D
    per target: two cross-modal transformers (target attends to a source) -> concatenated [B, T, 2 D] -> memory
    transformer -> last step
    -> concatenated [B, 6 D] -> h + linear(relu(linear(h))) -> linear -> [B, outputs]

The sequences may have different lengths and rates (unaligned); each keeps its length.
Traps: only the last step is used, so pad on the LEFT; a sequence that already has width D gets no convolution; the
memory transformer has at least 3 blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.crossmodal import OFFICIAL_KEYS, CrossModalConfig
from polymodal.models.output import Output, total_loss
from polymodal.nn.losses import classification_loss, regression_loss
from polymodal.weights.keytable import KeyTable, Row, drop, rename

MODALITIES = ("text", "audio", "vision")


@dataclass(frozen=True, kw_only=True)
class SequenceFusionConfig:
    """`features`: input width by modality.  `kernels`: of the convolutions.  `targets`: modalities with a stream, one
    or all three.  `positions` False: no positions, as in MMSA's copy of the model."""

    features: Mapping[str, int]
    outputs: int
    width: int = 30
    heads: int = 5
    depth: int = 5
    kernels: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 1))
    targets: tuple[str, ...] = MODALITIES
    future_mask: bool = True
    positions: bool = True

    def __post_init__(self) -> None:
        if set(self.features) != set(MODALITIES) or set(self.kernels) != set(MODALITIES):
            raise ConfigError(f"MulT: features and kernels must have the keys {', '.join(MODALITIES)}")
        if len(self.targets) not in (1, 3) or not set(self.targets) <= set(MODALITIES):
            raise ConfigError(f"MulT: targets must be one or all of {', '.join(MODALITIES)}; found {self.targets}")

    def build(self) -> "SequenceFusion":
        return SequenceFusion(self)


class SequenceFusion(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "hidden", "features", "predictions"})

    def __init__(self, config: SequenceFusionConfig):
        super().__init__()
        self.config = config
        if config.outputs > 1:  # a classifier has logits but no score
            self.output_fields = self.output_fields - {"predictions"}
        width = config.width
        self.proj = nn.ModuleDict(
            {
                name: nn.Conv1d(size, width, config.kernels[name], bias=False)
                for name, size in config.features.items()
                if size != width
            }
        )
        cross = CrossModalConfig(
            width=width, heads=config.heads, depth=config.depth, future_mask=config.future_mask,
            positions=config.positions,
        )  # fmt: skip
        memory = CrossModalConfig(
            width=2 * width, heads=config.heads, depth=max(config.depth, 3), cross=False,
            future_mask=config.future_mask, positions=config.positions,
        )  # fmt: skip
        self.cross = nn.ModuleDict({f"{a}_{b}": cross.build() for a in config.targets for b in MODALITIES if a != b})
        self.memory = nn.ModuleDict({name: memory.build() for name in config.targets})
        total_width = 2 * width * len(config.targets)
        self.proj1 = nn.Linear(total_width, total_width)
        self.proj2 = nn.Linear(total_width, total_width)
        self.out = nn.Linear(total_width, config.outputs)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """The three sequences at the common width, each `[B, T, D]`."""
        tensors = {name: value for name, value in batch.items() if value is not None}
        if unknown := sorted(set(tensors) - set(MODALITIES)):
            raise ConfigError(f"SequenceFusion: does not know the inputs {unknown}; it takes {', '.join(MODALITIES)}")
        if missing := [name for name in MODALITIES if name not in tensors]:
            raise PromptError(f"SequenceFusion: expected {', '.join(MODALITIES)}, found no {missing[0]}")
        features = {}
        for name in MODALITIES:
            x = tensors[name]
            if x.dim() != 3 or x.shape[2] != self.config.features[name]:
                expected = f"[B, T, {self.config.features[name]}]"
                raise PromptError(f"SequenceFusion: {name} must be {expected}, found {list(x.shape)}")
            features[name] = self.proj[name](x.transpose(1, 2)).transpose(1, 2) if name in self.proj else x
        return features

    def joint(self, states: Mapping[str, Tensor]) -> Tensor:
        """Input of the head `[B, 2 D targets]`: the last steps of the memory transformers, concatenated."""
        last = []
        for target in self.config.targets:
            crossed = [self.cross[f"{target}_{b}"](states[target], states[b]) for b in MODALITIES if b != target]
            last.append(self.memory[target](torch.cat(crossed, -1))[:, -1])
        return torch.cat(last, -1)

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, outputs]`: a sentiment score, or class logits; predictions["score"] `[B]` with one output.

        labels: float scores `[B]` (absolute error), classes `[B]`, or binary classes of several emotions
        `[B, outputs / 2]`.
        """
        states = self.features(**batch)
        h = self.joint(states)
        logits = self.out(h + self.proj2(F.relu(self.proj1(h))))
        predictions = {"score": logits[:, 0]} if logits.shape[1] == 1 else None
        if labels is None:
            return Output(logits=logits, hidden=h, features=states, predictions=predictions)
        if predictions is not None:
            losses = {"score": regression_loss(logits[:, 0], labels.reshape(-1))}
        else:
            class_logits = logits.unflatten(1, (labels.shape[1], -1)) if labels.dim() == 2 else logits
            losses = {"classification": classification_loss(class_logits, labels)}
        return Output(
            logits=logits, hidden=h, features=states, predictions=predictions, loss=total_loss(losses), losses=losses
        )


_LETTERS = {"text": "l", "audio": "a", "vision": "v"}
_ORDER = {"text": ("audio", "vision"), "audio": ("text", "vision"), "vision": ("text", "audio")}


def official_keys(config: SequenceFusionConfig) -> KeyTable:
    """Official names (also MMSA's, under `Model.`) -> ours; streams that are not built are dropped or absent."""
    rows: list[Row] = []
    for name, letter in _LETTERS.items():
        source = f"proj_{letter}.weight"
        rows.append(drop(source) if config.features[name] == config.width else rename(source, f"proj.{name}.weight"))
    for source, target in (("proj1", "proj1"), ("proj2", "proj2"), ("out_layer", "out")):
        rows += [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]
    keys = KeyTable(tuple(rows))
    for name, letter in _LETTERS.items():
        if name not in config.targets:
            keys += KeyTable((drop(f"trans_{letter}_mem.**"),))
            continue
        keys += OFFICIAL_KEYS.prefixed(f"trans_{letter}_mem.", f"memory.{name}.")
        for other in _ORDER[name]:
            keys += OFFICIAL_KEYS.prefixed(f"trans_{letter}_with_{_LETTERS[other]}.", f"cross.{name}_{other}.")
    return keys
