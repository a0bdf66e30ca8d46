"""A policy head with memory: hidden states of a language model at each time step -> what a robot's arm does.

Paper: RoboFlamingo (arXiv 2311.01378), section 4.2, "policy head"; the code's `DeterministicDecoder`.

    states [N, T, D] --pool over tokens--> [N, D] -> steps [B, W, D] -> LSTM [B, W, H]
        -> linears with ReLU 1024, 512, 256 -> 6, tanh       displacement and rotation of the arm
        -> linears with ReLU 1024, 512, 256 -> 1, sigmoid    how surely the gripper is open

Trap: the pooling runs over ALL tokens of the row, padding included.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.lstm import LSTM
from polymodal.weights.keytable import KeyTable, rename

HIDDEN = (1024, 512, 256)
POSE = 6


@dataclass(frozen=True, kw_only=True)
class RecurrentPolicyConfig:
    """hidden, depth, dropout: of the LSTM.  pooling: of a step's tokens."""

    hidden: int = 1024
    depth: int = 4
    dropout: float = 0.1
    pooling: Literal["max", "avg"] = "max"

    def __post_init__(self) -> None:
        if self.pooling not in ("max", "avg"):
            raise ConfigError(f"policy: pooling must be max or avg, found {self.pooling!r}")

    def build(self, width: int) -> RecurrentPolicy:
        return RecurrentPolicy(self, width)


class RecurrentPolicy(nn.Module):
    """See the module docstring; width D of the hidden states."""

    def __init__(self, config: RecurrentPolicyConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.rnn = LSTM(width, config.hidden, config.depth, config.dropout)
        self.pose = linears(config.hidden, POSE)
        self.gripper = linears(config.hidden, 1)

    def pool(self, states: Tensor) -> Tensor:
        """[N, T, D] -> [N, D]"""
        return states.amax(1) if self.config.pooling == "max" else states.mean(1)

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """[B, W, D] -> pose [B, W, 6] in -1..1, gripper [B, W, 1] in 0..1."""
        found = self.rnn(steps)
        return apply(self.pose, found).tanh(), apply(self.gripper, found).sigmoid()


def linears(width: int, out: int) -> nn.ModuleList:
    """The layers of one head."""
    sizes = (width, *HIDDEN, out)
    return nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))


def apply(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """The layers in turn, ReLU between them."""
    for layer in layers[:-1]:
        x = F.relu(layer(x))
    return layers[-1](x)


def policy_losses(pose: Tensor, gripper: Tensor, actions: Tensor, gripper_weight: float) -> dict[str, Tensor]:
    """actions [B, W, 7]: the pose of each step and the gripper, 1 open and -1 closed.

    Huber loss of the pose, cross-entropy of the gripper; both are means over all numbers, in float32.
    """
    opened = (actions[..., POSE:] + 1) / 2
    with torch.autocast(pose.device.type, enabled=False):  # it refuses cross-entropy of probabilities
        open_loss = F.binary_cross_entropy(gripper.float(), opened.float())
        return {"pose": F.huber_loss(pose.float(), actions[..., :POSE].float()), "gripper": gripper_weight * open_loss}


def official_keys(config: RecurrentPolicyConfig) -> KeyTable:
    """Official names below `lm_head.` -> ours."""
    lstm = [
        rename(f"rnn.{name}_l{layer}", f"rnn.{name}_l{layer}")
        for layer in range(config.depth)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    heads = [
        rename(f"{theirs}.mlp.{2 * index}.{leaf}", f"{ours}.{index}.{leaf}")
        for theirs, ours in (("actions", "pose"), ("gripper", "gripper"))
        for index in range(len(HIDDEN) + 1)
        for leaf in ("weight", "bias")
    ]
    return KeyTable((*lstm, *heads))
