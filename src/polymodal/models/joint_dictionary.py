"""Joint sparse codes of several feature groups, and a classifier on them: multimodal dictionary learning (MDL).

    x of each group [B, F] -> z-scores -> codes [B, K], which for all groups together make the least of
        sum over groups 1/2 |x - D a|^2  +  joint * sum over atoms |(a of that atom in all groups)|  +  ridge/2 * |a|^2
    codes side by side -> linear -> logit [B, 1]

Depression Detection via Harvesting Social Media (IJCAI 2017), by the codes of Bahrampour et al. (arXiv 1502.01094).
The codes are found by accelerated proximal steps (FISTA with restarts), in float64.
Traps: the k-th atoms of all groups are used together or not at all; atoms are at most 1 long, longer ones are shortened
before use; codes have no gradient, so that a loss on them trains the classifier alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.models.feature_inputs import checked
from polymodal.models.output import Output

GROUPS = ("social", "profile", "visual", "emotional", "topic", "symptoms")


@dataclass(frozen=True, kw_only=True)
class JointDictionaryConfig:
    """features: width by group.  atoms: of every group.  joint, ridge: weights of the two penalties.

    steps: at most so many for a batch; it ends earlier where no code changes by more than `tolerance`.
    """

    features: Mapping[str, int]
    atoms: int
    joint: float = 0.1
    ridge: float = 0.01
    steps: int = 3000
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if not self.features or not set(self.features) <= set(GROUPS):
            raise ConfigError(f"MDL: features are some of {', '.join(GROUPS)}; found {', '.join(self.features) or '-'}")
        if self.atoms < 1 or self.joint < 0 or self.ridge <= 0:
            raise ConfigError(
                "MDL: expected atoms of 1 or more, joint of 0 or more and ridge above 0 (codes are unique then); "
                f"found {self.atoms}, {self.joint} and {self.ridge}"
            )

    def build(self) -> JointDictionary:
        return JointDictionary(self)


class JointDictionary(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "features", "predictions"})

    def __init__(self, config: JointDictionaryConfig) -> None:
        super().__init__()
        self.config = config
        self.mean = nn.ParameterDict({n: nn.Parameter(torch.zeros(width)) for n, width in config.features.items()})
        self.scale = nn.ParameterDict({n: nn.Parameter(torch.ones(width)) for n, width in config.features.items()})
        self.atoms = nn.ParameterDict(
            {
                n: nn.Parameter(F.normalize(torch.randn(width, config.atoms), dim=0))
                for n, width in config.features.items()
            }
        )
        self.head = nn.Linear(len(config.features) * config.atoms, 1)

    def groups(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """z-scores by group, `[B, F]`.  Raises PromptError for sequences: a user is one vector a group."""
        given = checked("MDL", batch, self.config.features)
        for name, x in given.items():
            if x.shape[1] != 1:
                raise PromptError(f"MDL: {name} must be [B, {x.shape[2]}], one vector a user; found {list(x.shape)}")
        return {name: (x[:, 0] - self.mean[name]) / self.scale[name] for name, x in given.items()}

    def dictionary(self, name: str) -> Tensor:
        """The atoms of a group, at most 1 long, `[F, K]`."""
        atoms = self.atoms[name]
        return atoms / atoms.norm(dim=0, keepdim=True).clamp(min=1.0)

    @torch.no_grad()
    def measure(self, batch: Mapping[str, Any]) -> None:
        """Take means and deviations from these samples."""
        given = checked("MDL", batch, self.config.features)
        for name, x in given.items():
            deviation = x[:, 0].std(0, correction=0)
            self.mean[name].copy_(x[:, 0].mean(0))
            self.scale[name].copy_(torch.where(deviation > 0, deviation, 1.0))

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """The codes of each group, `[B, K]`."""
        return self.codes(self.groups(batch))

    @torch.no_grad()
    def codes(self, groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See the module docstring."""
        grams, sides = [], []
        for name, x in groups.items():
            atoms = self.dictionary(name).double()
            grams.append(atoms.T @ atoms + self.config.ridge * torch.eye(self.config.atoms, dtype=x.dtype).to(atoms))
            sides.append(x.double() @ atoms)
        found = joint_codes(torch.stack(grams), torch.stack(sides), self.config)
        return {name: each.to(groups[name].dtype) for name, each in zip(groups, found, strict=True)}

    def objective(self, groups: Mapping[str, Tensor], codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its two terms, a sample; the first has a gradient for the atoms."""
        errors = [(x - codes[name] @ self.dictionary(name).T).square().sum(1) for name, x in groups.items()]
        whole = torch.stack(list(codes.values()))
        penalty = self.config.joint * whole.norm(dim=0).sum(1) + self.config.ridge / 2 * whole.square().sum((0, 2))
        return {"reconstruction": torch.stack(errors).sum(0).mean() / 2, "penalty": penalty.mean()}

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, 1]`, above 0 for depression, also as predictions["depression"] `[B]`; labels: 0 or 1 `[B]`."""
        codes = self.features(**batch)
        logits = self.head(torch.cat([codes[name] for name in self.config.features], 1))
        output = Output(logits=logits, features=codes, predictions={"depression": logits[:, 0]})
        if labels is None:
            return output
        loss = F.binary_cross_entropy_with_logits(logits[:, 0].float(), labels.reshape(-1).float())
        return output._replace(loss=loss, losses={"classification": loss})


def joint_codes(grams: Tensor, sides: Tensor, config: JointDictionaryConfig) -> Tensor:
    """grams [G, K, K], sides [G, B, K] -> codes [G, B, K]."""
    rate = 1 / float(torch.linalg.matrix_norm(grams, 2).max())
    codes = torch.zeros_like(sides)
    ahead, speed = codes, 1.0
    for _ in range(config.steps):
        moved = ahead - rate * (ahead @ grams - sides)
        length = moved.norm(dim=0, keepdim=True).clamp(min=1e-300)
        new = moved * (1 - rate * config.joint / length).clamp(min=0)
        change = new - codes
        if float(((ahead - new) * change).sum()) > 0:  # it swings past the goal: begin anew
            speed = 1.0
        faster = (1 + (1 + 4 * speed**2) ** 0.5) / 2
        codes, ahead, speed = new, new + (speed - 1) / faster * change, faster
        if float(change.abs().max()) < config.tolerance:
            break
    return codes
