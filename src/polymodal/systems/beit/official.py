"""Official BEiT files (.pth of microsoft/unilm): masked models and classifiers, recognised by their shapes.

    {"model": {patch_embed.proj, cls_token, mask_token?, rel_pos_bias? | blocks.*.attn.relative_position_bias_table,
               blocks.*, norm + lm_head | fc_norm + head | norm + head}}      (arXiv 2106.08254)

Traps: fc_norm means that the mean of the patches is classified, norm that the class token is; norms here have an eps of
1e-6 where the hub's configs say 1e-12; without a table of relative positions the number of heads is in no tensor, and
the published 64 channels a head are taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.checkpoints.record import CheckpointFormat, ModelSpec, Part, Shapes, hf
from polymodal.encoders import beit_keys
from polymodal.encoders.heads import ClassLogitsConfig, PatchLogitsConfig
from polymodal.models.encoder_classifier import EncoderClassifier
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable

EPS = 1e-6
KIND = "beit-official"
SHARED = "rel_pos_bias.relative_position_bias_table"
OWN = "blocks.0.attn.relative_position_bias_table"
HEADS: dict[str, tuple[str, str | None]] = {"lm_head": ("lm_head", "norm"), "patches": ("head", "fc_norm"),
                                            "class": ("head", None)}  # fmt: skip
"""Kind of the head -> official names of its linear and of its norm."""


def infer(shapes: Shapes) -> Mapping[str, Any] | None:
    """The options of transformers' BeitConfig that the shapes tell, with `head`; None for another's file."""
    if not {"patch_embed.proj.weight", "cls_token", "blocks.0.gamma_1", "blocks.0.attn.q_bias"} <= set(shapes):
        return None
    if any(name.startswith("cls_pt_layers.") for name in shapes):
        return None  # BEiT v2's, which has blocks of its own for the class token
    kind = "lm_head" if "lm_head.weight" in shapes else "patches" if "fc_norm.weight" in shapes else "class"
    linear = f"{HEADS[kind][0]}.weight"
    table, positions = shapes.get(SHARED, shapes.get(OWN)), shapes.get("pos_embed")
    if linear not in shapes or (table is None and positions is None):
        return None
    width, channels, *patch = shapes["patch_embed.proj.weight"]
    # A square grid of s patches a side has (2s - 1)^2 offsets and three more for the class token.
    side = (math.isqrt(table[0] - 3) + 1) // 2 if table is not None else math.isqrt(positions[1] - 1)  # type: ignore[index]
    return {
        "model_type": KIND, "head": kind, "num_labels": shapes[linear][0], "hidden_size": width,
        "num_channels": channels, "patch_size": list(patch), "image_size": [side * each for each in patch],
        "num_hidden_layers": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        "num_attention_heads": table[1] if table is not None else max(1, width // 64),
        "intermediate_size": shapes["blocks.0.mlp.fc1.weight"][0], "layer_norm_eps": EPS,
        "use_mask_token": "mask_token" in shapes, "use_absolute_position_embeddings": positions is not None,
        "use_shared_relative_position_bias": SHARED in shapes, "use_relative_position_bias": OWN in shapes,
        "use_mean_pooling": kind != "class",
    }  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `infer` found."""
    tower, kind, count = beit_keys.parse_config(config), config["head"], config["num_labels"]
    norm, width = LayerNormConfig(eps=config["layer_norm_eps"]), tower.width
    linear, theirs = HEADS[kind]
    rows = {linear: "head.proj", **({"norm": "encoders.image.final_norm"} if theirs is None else {theirs: "head.norm"})}

    def head() -> nn.Module:
        if kind == "lm_head":
            return PatchLogitsConfig(width=width, codes=count, norm=norm).build()
        pooled = norm if kind == "patches" else None
        return ClassLogitsConfig(width=width, classes=count, pool=kind, norm=pooled).build()

    named = {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in rows.items() for leaf in ("weight", "bias")}
    body = beit_keys.OFFICIAL_KEYS.prefixed(target="encoders.image.")
    part = Part(slot="encoder", modality="image", name="BEiT", prefix="encoders.image", tokens=tower.tokens,
                input=f"[N, {tower.channels}, H, W]", output=f"[N, {tower.tokens}, {width}]")  # fmt: skip
    return ModelSpec(build=lambda: EncoderClassifier(tower.build(), head()), keys=(body + KeyTable.of(named),),
                  parts=(part,))  # fmt: skip


LAYOUT = CheckpointFormat(name="official BEiT (.pth)", parse_config=parse_config, infer=infer, entry=("model", ""),
                matches=hf(KIND))  # fmt: skip
