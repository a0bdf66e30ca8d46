"""A vision-language model as a robot's policy: every time step is a sequence of its own, a recurrent head remembers.

Paper: RoboFlamingo (arXiv 2311.01378).

    vision_x [B, W, 3, H, W'] and vision_gripper alike: W time steps of two cameras
        -> encoder -> resampler -> latents of both, side by side [B * W, 2 Q, D']  ("post"; "pre": patches side by side,
           one resampler for all of them)
    input_ids [B, T], the same for every step -> decoder with gated cross-attention -> states [B * W, T, D]
        -> pooled over tokens [B, W, D] -> policy -> pose [B, W, 6], gripper [B, W, 1]

Both cameras are one item: the one placeholder of a row, and all behind it, sees both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.cross_attention import CrossContext
from polymodal.fusion.visibility import visible_items
from polymodal.generators.recurrent_policy import RecurrentPolicy, policy_losses
from polymodal.models.output import Output, total_loss
from polymodal.nn.mask import MaskSpec, padding_mask

CAMERAS = {"image": "vision_x", "gripper": "vision_gripper"}
"""Camera -> its tensor."""
INPUTS = frozenset({"input_ids", "attention_mask", "labels", "gripper_weight", *CAMERAS.values()})


class ActionPolicy(nn.Module):
    """connectors: of "image", and of "gripper" where that camera has one of its own.  fuse: see the module docstring.

    media: id of the placeholder.
    """

    output_fields = frozenset({"hidden", "features", "predictions"})

    def __init__(
        self,
        encoder: nn.Module,
        connectors: Mapping[str, nn.Module],
        backbone: Decoder,
        policy: RecurrentPolicy,
        *,
        media: int,
        fuse: Literal["post", "pre"] = "post",
    ) -> None:
        super().__init__()
        if fuse not in ("post", "pre"):
            raise ConfigError(f"ActionPolicy: fuse must be post or pre, found {fuse!r}")
        self.encoders = nn.ModuleDict({"image": encoder})
        self.connectors = nn.ModuleDict(connectors)
        self.backbone, self.policy = backbone, policy
        self.media, self.fuse = media, fuse

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """{"image": [B * W, S, D']}, what both cameras give the cross-attention at each step."""
        self.check(batch)
        seen = {camera: self.encoders["image"](batch[name].flatten(0, 1)) for camera, name in CAMERAS.items()}
        if self.fuse == "pre":
            return {"image": self.connectors["image"](torch.cat(tuple(seen.values()), 1))}
        made = [self.connectors[camera if camera in self.connectors else "image"](x) for camera, x in seen.items()]
        return {"image": torch.cat(made, 1)}

    def steps(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Features [B * W, S, D'] of all steps, the text [B, T] -> pooled states [B, W, D]."""
        count = len(features) // len(input_ids)
        ids = input_ids.repeat_interleave(count, 0)
        mask = None if attention_mask is None else padding_mask(attention_mask)
        rows = None if mask is None else mask.repeat_interleave(count, 0)
        context = CrossContext(
            features=features,
            items=torch.zeros(features.shape[:2], dtype=torch.int64, device=ids.device),
            visible=visible_items(ids == self.media, 1),
        )
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        states = self.backbone(self.backbone.embed(ids), positions, MaskSpec(attention_mask=rows), context=context)
        return self.policy.pool(states).unflatten(0, (-1, count))

    def forward(self, *, labels: Tensor | None = None, gripper_weight: float = 0.01, **batch: Any) -> Output:
        """predictions: pose [B, W, 6] in -1..1, gripper [B, W, 1], how surely it is open.

        labels: actions [B, W, 7], the gripper's last, -1 or 1.
        """
        features = self.features(**batch)
        hidden = self.steps(features["image"], batch["input_ids"], batch.get("attention_mask"))
        pose, gripper = self.policy(hidden)
        found = {"pose": pose, "gripper": gripper}
        if labels is None:
            return Output(hidden=hidden, features=features, predictions=found)
        losses = policy_losses(pose, gripper, labels, gripper_weight)
        return Output(hidden=hidden, features=features, predictions=found, loss=total_loss(losses), losses=losses)

    def check(self, batch: Mapping[str, Any]) -> None:
        """Raises ConfigError for an unknown input, PromptError for cameras that are not there or do not agree."""
        if unknown := sorted(name for name in set(batch) - INPUTS if batch[name] is not None):
            raise ConfigError(
                f"ActionPolicy: does not know the input {unknown[0]!r}; it takes {', '.join(sorted(INPUTS))}"
            )
        shapes = {}
        for name in CAMERAS.values():
            if batch.get(name) is None:
                raise PromptError(f"ActionPolicy: expected pictures of both cameras, found no {name}")
            shapes[name] = tuple(batch[name].shape)
        first, second = shapes.values()
        rows = len(batch["input_ids"])
        if len(first) != 5 or first != second or first[0] != rows:
            raise PromptError(
                f"ActionPolicy: expected both cameras as [{rows}, steps, 3, height, width]; found {shapes}"
            )
