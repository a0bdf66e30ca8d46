"""A policy at work: an instruction, then the pictures of step after step in, an action out for each.

    Acting(policy, ids, transform)          begins a task
    acting([static, gripper]) -> [7]        one step; what was seen in the last `window` steps is remembered

Trap: the published code carries the state of the recurrent layers along for the first `window` steps, then runs them
again over the last `window` steps from zeros at each step.  Both are the same as running them over what is remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polymodal.data.actions import ActionSpace
from polymodal.data.transforms import ImageTransform
from polymodal.generation.decode_state import cast_batch
from polymodal.models.action_policy import CAMERAS, ActionPolicy
from polymodal.nn.first_weight import first_weight


class Acting:
    """ids: of the instruction, with all that stands around it.  window: steps that count.  space: what the numbers
    of an action stand for."""

    views = ("static camera", "gripper camera")

    def __init__(
        self, policy: ActionPolicy, ids: Sequence[int], transform: ImageTransform, *, window: int, space: ActionSpace
    ) -> None:
        self._policy, self._ids, self._transform = policy, torch.tensor([list(ids)]), transform
        self.space = space
        self._seen: deque[Tensor] = deque(maxlen=window)

    def __call__(self, pictures: Sequence[Any]) -> Tensor:
        """A picture of each of `views` -> float32 [7], the pose in -1..1 and the gripper, -1 closed or 1 open."""
        values = [self._transform(picture)[None, None] for picture in pictures]
        batch = {"input_ids": self._ids, **dict(zip(CAMERAS.values(), values, strict=True))}
        with torch.inference_mode():
            batch = cast_batch(batch, first_weight(self._policy))
            self._seen.append(self._policy.steps(self._policy.features(**batch)["image"], batch["input_ids"]))
            pose, gripper = self._policy.policy(torch.cat(tuple(self._seen), 1))
        # As published, the action is handed on in half precision.
        pose = pose[0, -1].half().float().cpu()
        return torch.cat((pose, torch.where(gripper[0, -1].float().cpu() > 0.5, 1.0, -1.0)))
