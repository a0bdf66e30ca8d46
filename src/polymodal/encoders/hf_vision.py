"""The image encoder of a vision-language checkpoint: its `vision_config` (CLIP or SigLIP) and feature selection.

    vision_config, layer(s), strategy -> ViT config, key tables for each naming on the hub

Traps: layers are indexed like `hidden_states` (-2: the input of the last block) and taken before the final norm;
strategy "default" drops the first feature, which is the class token of CLIP but an ordinary patch of SigLIP; published
files prefix the names with `vision_model.`, transformers 5 does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from polymodal.encoders import clip_vit, siglip_vit
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable


@dataclass(frozen=True, kw_only=True)
class VisionEncoder:
    """`keys`: one complete, strict table for each naming on disk."""

    config: ViTConfig
    keys: tuple[KeyTable, ...]

    def prefixed(self, source: str, target: str = "encoders.image.") -> tuple[KeyTable, ...]:
        """The tables with prefix `source` for the names on disk and `target` for ours."""
        return tuple(table.prefixed(source, target) for table in self.keys)


def parse_config(config: Mapping[str, Any], layer: int | list[int] = -2, strategy: str = "default") -> VisionEncoder:
    """The encoder of a `vision_config`; absent keys take transformers' defaults.

    Raises ConfigError for other model types and other strategies.
    """
    if strategy not in ("default", "full"):
        raise ConfigError(f"vision_feature_select_strategy {strategy!r} is not supported; expected 'default' or 'full'")
    layers = layer if isinstance(layer, int) else tuple(layer)
    kind, first = config.get("model_type", "clip_vision_model"), strategy == "full"
    if kind == "clip_vision_model":
        encoder = replace(clip_vit.parse_config(config), layer=layers, keep_class=first, head=None)
        table = clip_vit.hf_keys(encoder)
    elif kind == "siglip_vision_model":
        encoder = replace(siglip_vit.parse_config(config), layer=layers, final_norm=None, skip=int(not first))
        table = siglip_vit.hf_keys(encoder)
    else:
        raise ConfigError(
            f"vision_config.model_type {kind!r} is not supported; expected clip_vision_model or siglip_vision_model"
        )
    bare = table.respelled({"vision_model.": "", "visual_projection.": "visual_projection."})
    return VisionEncoder(config=encoder, keys=(table, bare))
