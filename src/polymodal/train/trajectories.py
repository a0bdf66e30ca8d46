"""What a robot was told, saw and did -> windows of steps: `input_ids`, a tensor of each camera, `labels` [N, W, 7].

    a sample: an instruction, the pictures of both cameras at each step, actions [T, 7]   ->   one window of W steps,
    drawn anew each time the sample comes

Traps: pictures are decoded for the drawn window alone; a way that is shorter than the window is skipped, as damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.errors import PromptError
from polymodal.train.collator import Collator, MicroBatch, WrongKind, counted

Window = tuple[list[int], tuple[Tensor, ...], Tensor]


@dataclass(frozen=True, kw_only=True)
class TrajectoryCollator(Collator):
    """ids(instruction) -> with all that stands around it.  transform: of a picture.  cameras: modality of the pictures
    -> the name of their tensor.  window: steps.  pad: fills instructions of unequal length."""

    expects: ClassVar[str] = "what a robot did: an instruction, pictures of each camera and actions"

    ids: Callable[[str], list[int]]
    transform: Callable[[Any], Tensor]
    cameras: dict[str, str]
    window: int
    pad: int
    width: int = 7

    def item(self, sample: Sample) -> Window:
        """The first window."""
        return self.drawn(sample, torch.Generator().manual_seed(0))

    def drawn(self, sample: Sample, generator: torch.Generator) -> Window:
        """A window that begins anywhere."""
        if "actions" not in sample.arrays:
            raise WrongKind("has no actions")
        actions = torch.as_tensor(sample.arrays["actions"].values).float()
        if actions.dim() != 2 or actions.shape[1] != self.width:
            raise PromptError(f"its actions are {list(actions.shape)}; expected [steps, {self.width}]")
        steps = len(actions)
        views = {name: [each for each in sample.media if each.modality == name] for name in self.cameras}
        if odd := next((name for name, seen in views.items() if len(seen) != steps), None):
            raise PromptError(f"has {steps} actions and {len(views[odd])} pictures of the camera {odd!r}")
        if steps < self.window:
            raise PromptError(f"has {steps} steps; a window has {self.window}")
        start = int(torch.randint(steps - self.window + 1, (), generator=generator))
        here = slice(start, start + self.window)
        pixels = tuple(torch.stack([self.transform(each) for each in seen[here]]) for seen in views.values())
        return self.ids(sample.text), pixels, actions[here]

    def batch(self, items: Sequence[Window], generator: torch.Generator) -> MicroBatch:
        """Windows side by side."""
        longest = max(len(ids) for ids, _, _ in items)
        ids = torch.tensor([[*row, *[self.pad] * (longest - len(row))] for row, _, _ in items])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _, _ in items])
        views = zip(*(pixels for _, pixels, _ in items), strict=True)
        seen = dict(zip(self.cameras.values(), map(torch.stack, views), strict=True))
        labels = torch.stack([actions for _, _, actions in items])
        return counted({"input_ids": ids, "attention_mask": mask, **seen, "labels": labels}, len(items))
