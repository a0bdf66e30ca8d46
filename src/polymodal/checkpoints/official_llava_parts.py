"""LLaVA 1, 1.5, 1.6 and systems of their code, as it keeps them: a LLaMA config with `mm_*`, names below `model.`.

    config.json -> tower (named, not described), connector, language model -> MultimodalLM and its key table

Traps
- Checkpoints of 1 and 1.5 leave the vision tower out: its folder lies inside the checkpoint's, or where
  `mm_vision_tower` says.  1.6 holds a tower of its own, which was trained on; ShareGPT4V's training writes its own
  into the folder `vision_tower` of the checkpoint, which then counts before whatever `mm_vision_tower` says.
- A picture is marked by the id -200 (here once per feature), in the first checkpoints by `<im_patch>`; the first code,
  from which Shikra and Chinese-LLaVA come, always appends that token (`legacy`).
- Grids are listed as (width, height); `image_sizes` of a batch are (height, width) here as everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from polymodal.backbones import hf_text
from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints.record import CheckpointFiles, ConfigMatch
from polymodal.connectors import hf_mlp
from polymodal.connectors.anyres import AnyResConfig, grids_of_pinpoints
from polymodal.connectors.mlp import MLPConnectorConfig
from polymodal.encoders import hf_vision
from polymodal.encoders.tiled import TiledConfig
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError, WeightsError
from polymodal.fusion.placeholder_mask import PlaceholderMask
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.merged import MergedTensors

CLIP_L = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
          "num_attention_heads": 16, "image_size": 224, "patch_size": 14}  # fmt: skip
CLIP_L_336 = {**CLIP_L, "image_size": 336}
SIGLIP_384 = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
              "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384, "patch_size": 14}  # fmt: skip
OWN_TOWER = "vision_tower"
TOWERS = {
    "openai/clip-vit-large-patch14": CLIP_L,
    "openai/clip-vit-large-patch14-336": CLIP_L_336,
    "Lin-Chen/ShareGPT4V-7B_Pretrained_vit-large336-l12": CLIP_L_336,
    "Lin-Chen/ShareGPT4V-13B_Pretrained_vit-large336-l12": CLIP_L_336,
    "google/siglip-so400m-patch14-384": SIGLIP_384,
    OWN_TOWER: CLIP_L_336,
}
LLAVA = {"LlavaLlamaForCausalLM": "llama", "LlavaMistralForCausalLM": "mistral"}
SHARE4V = {"Share4VLlamaForCausalLM": "llama"}
SHIKRA = {"ShikraLlamaForCausalLM": "llama"}
FAMILIES = {**LLAVA, **SHARE4V, **SHIKRA}
INSIDE = "model.vision_tower.vision_tower."
IMAGE, PATCH, AROUND = -200, "<im_patch>", ("<im_start>", "<im_end>")
_TOP = ("vision_model", "text_model", "visual_projection", "text_projection", "logit_scale")


@dataclass(frozen=True, kw_only=True)
class OfficialLlava:
    """What an official config describes; `tiled`: the connector that lays tiles out (1.6), None before."""

    tower: ViTConfig
    connector: MLPConnectorConfig
    text: DecoderConfig
    keys: KeyTable
    prepare_inputs: PlaceholderMask
    tiled: AnyResConfig | None = None

    def build(self) -> MultimodalLM:
        """The model with fresh weights."""
        sizes = () if self.tiled is None else ("image_sizes",)
        inputs = ModalityInputs(values="pixel_values", encoder=sizes, connector=sizes, placeholder_mask="image_mask")
        encoder: nn.Module = self.tower.build()
        if self.tiled is not None:
            encoder = TiledConfig(encoder=self.tower, tile=self.tiled.tile, grids=self.tiled.grids).build()
        connector = (self.tiled or self.connector).build(self.tower.out_width, self.text.width)
        return MultimodalLM(
            {"image": encoder}, {"image": connector}, self.text.build(), {"image": IMAGE},
            inputs={"image": inputs}, prepare_inputs=self.prepare_inputs,
        )  # fmt: skip


def matches(kind: str) -> ConfigMatch:
    """Scores official configs for the LLaVA of a kind, "linear", "mlp" or "anyres", by the connector they name."""

    def score(config: Mapping[str, Any]) -> int:
        linear = (config.get("mm_projector_type") or "linear") == "linear"
        return 2 * int(kind == ("anyres" if _is_tiled(config) else "linear" if linear else "mlp"))

    return ConfigMatch(score=score, architectures=tuple(LLAVA))


def parse_config(config: Mapping[str, Any], legacy: bool = False) -> OfficialLlava:
    """Raises ConfigError for what is not supported, by its name in the config.  legacy: see `added_tokens`."""
    text, text_keys = hf_text.decoder_of({**config, "model_type": family_of(config)})
    feature = config.get("mm_vision_select_feature") or "patch"
    if feature not in ("patch", "cls_patch"):
        raise ConfigError(f"llava: mm_vision_select_feature {feature!r} is not known; expected patch or cls_patch")
    strategy = "default" if feature == "patch" else "full"
    vision = hf_vision.parse_config(tower_of(config), config.get("mm_vision_select_layer", -2), strategy)
    connector, names = hf_mlp.parse_projector_type(config.get("mm_projector_type") or "linear")
    tiled = _tiled(config, vision.config, connector) if _is_tiled(config) else None
    one, two = ("", "") if tiled is None else ("tile.", "project.")
    keys = vision.prefixed(INSIDE, f"encoders.image.{one}")[0] + text_keys.prefixed(target="backbone.")
    keys += names.prefixed("model.mm_projector", f"connectors.image.{two}")
    if tiled is not None:
        keys += KeyTable((rename("model.image_newline", "connectors.image.newline"),))
    added = added_tokens(config, legacy)
    patch = text.vocab_size - len(added) if PATCH in added else IMAGE
    prepare_inputs = PlaceholderMask(ids=(IMAGE, patch), names={"images": "pixel_values"})
    return OfficialLlava(
        tower=vision.config, connector=connector, text=text, keys=keys, prepare_inputs=prepare_inputs, tiled=tiled
    )


def added_tokens(config: Mapping[str, Any], legacy: bool = False) -> tuple[str, ...]:
    """The tokens that were appended to the vocabulary and stand in prompts, in this order.

    legacy: the first code has no placeholder but `<im_patch>`, and appends it whatever its config says.
    """
    marked = bool(config.get("mm_use_im_start_end"))
    patch = legacy or (marked and bool(config.get("mm_use_im_patch_token", True)))
    return ((PATCH,) if patch else ()) + (AROUND if marked else ())


def family_of(config: Mapping[str, Any]) -> str:
    """The `model_type` of the language model; ConfigError where `architectures` names none of the official classes."""
    named = config.get("architectures") or ()
    families = [FAMILIES[name] for name in named if name in FAMILIES]
    if not families:
        raise ConfigError(f"llava: architectures {named!r} names no official class; expected {' or '.join(FAMILIES)}")
    return families[0]


def _is_tiled(config: Mapping[str, Any]) -> bool:
    return config.get("image_aspect_ratio") == "anyres"


def _tiled(config: Mapping[str, Any], tower: ViTConfig, connector: MLPConnectorConfig) -> AnyResConfig:
    merge = config.get("mm_patch_merge_type") or "flat"
    if merge != "spatial_unpad" or not isinstance(tower.image_size, int) or tower.tokens != tower.patches:
        raise ConfigError(f"llava: mm_patch_merge_type {merge!r} with tiles is not supported; expected spatial_unpad "
                          "and mm_vision_select_feature patch")  # fmt: skip
    points = [(height, width) for width, height in config["image_grid_pinpoints"]]
    tile = tower.image_size
    return AnyResConfig(
        tile=tile, side=tower.grid, grids=grids_of_pinpoints(points, tile), project=connector, digits=None
    )


def tower_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The vision_config of the tower an official config names; ConfigError when it is not known or there."""
    name = tower_name(config)
    tower_config = Path(name) / "config.json"
    if tower_config.is_file():
        found = CheckpointFiles(tower_config.parent).json("config.json")
        return found.get("vision_config") or found
    towers = {Path(known).name: tower for known, tower in TOWERS.items()}
    if Path(name).name not in towers:
        known = ", ".join(TOWERS)
        raise ConfigError(f"llava: mm_vision_tower {name!r} is neither a folder with a config.json nor one of {known}")
    return towers[Path(name).name]


def gather(folder: Path, inside: str = INSIDE) -> Mapping[str, Tensor]:
    """All tensors of a checkpoint under official names, its tower's too; WeightsError without one.

    inside: the start of the tower's names where the checkpoint holds it.
    """
    whole = weights_in(folder)
    if any(name.startswith(inside) for name in whole):
        return whole
    found = tower_folder(folder, tower_name(CheckpointFiles(folder).json("config.json")), "vision")
    return MergedTensors({"": whole, inside: weights_in(found)}, _official_name)


def tower_name(config: Mapping[str, Any]) -> str:
    """What a config names as its tower, "" for none."""
    return str(config.get("mm_vision_tower") or config.get("mm_image_tower") or config.get("vision_tower") or "")


def tower_folder(folder: Path, name: str, kind: str) -> Path:
    """Where the tower lies that a checkpoint names and leaves out; WeightsError where it is not there."""
    places = (folder / f"{kind}_tower", Path(name), folder / name, folder / Path(name).name)
    found = next((each for each in places if name and (each / "config.json").is_file()), None)
    if found is None:
        raise WeightsError(
            f"{folder} leaves out its {kind} tower {name!r}; fetch that and put its folder at {places[-1]}"
        )
    return found


def _official_name(prefix: str, name: str) -> str | None:
    """Names of the whole CLIP or of its image encoder -> names inside the official checkpoint."""
    if not prefix or name.startswith("vision_model."):
        return prefix + name
    return None if name.split(".")[0] in _TOP else f"{prefix}vision_model.{name}"
