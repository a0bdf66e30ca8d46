"""The image encoder of a vision-language checkpoint: its `vision_config` (CLIP or SigLIP) and which features leave it.

    vision_config, layer(s), strategy -> ViT config, spellings of its names on the hub

Traps: layers count like `hidden_states` (-2: the input of the last block) and are read before any last norm; strategy
"default" drops the first feature, which is CLIP's class token but with SigLIP an ordinary patch; published files put
`vision_model.` in front of the names, the transformers library from version 5 on does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from polymodal.encoders import clip_vit, siglip_vit
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable


@dataclass(frozen=True, kw_only=True)
class VisionTower:
    """`keys`: spellings of the names on disk, each a whole strict table."""

    config: ViTConfig
    keys: tuple[KeyTable, ...]

    def placed(self, source: str, target: str = "encoders.image.") -> tuple[KeyTable, ...]:
        """The tables for a file that keeps the encoder under `source`, in a module that keeps it under `target`."""
        return tuple(table.prefixed(source, target) for table in self.keys)


def parse_config(config: Mapping[str, Any], layer: int | list[int] = -2, strategy: str = "default") -> VisionTower:
    """The encoder of a `vision_config`; absent keys take the library's defaults.

    Raises ConfigError for another kind of encoder or another strategy.
    """
    if strategy not in ("default", "full"):
        raise ConfigError(f"vision_feature_select_strategy {strategy!r} is not supported; expected 'default' or 'full'")
    layers = layer if isinstance(layer, int) else tuple(layer)
    kind, first = config.get("model_type", "clip_vision_model"), strategy == "full"
    if kind == "clip_vision_model":
        tower = replace(clip_vit.parse_config(config), layer=layers, keep_class=first, head=None)
        table = clip_vit.hf_keys(tower)
    elif kind == "siglip_vision_model":
        tower = replace(siglip_vit.parse_config(config), layer=layers, final_norm=None, skip=int(not first))
        table = siglip_vit.hf_keys(tower)
    else:
        raise ConfigError(
            f"vision_config.model_type {kind!r} is not supported; expected clip_vision_model or siglip_vision_model"
        )
    bare = table.respelled({"vision_model.": "", "visual_projection.": "visual_projection."})
    return VisionTower(config=tower, keys=(table, bare))
