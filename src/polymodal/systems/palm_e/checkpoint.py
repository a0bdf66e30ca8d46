"""PaLM-E as a checkpoint: a table for each sense beside PaLM's, any of them may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from polymodal.backbones import palm
from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints.qformer_lm import linear
from polymodal.connectors.entity_mlp import EntityMLPConfig
from polymodal.connectors.linear import LinearConnectorConfig
from polymodal.encoders import osrt, vit_22b
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.palm_e import processing
from polymodal.weights.keytable import KeyTable

PALM = {"8b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 16},
        "62b": {"hidden_size": 8192, "num_hidden_layers": 64, "num_attention_heads": 32},
        "540b": {"hidden_size": 18432, "num_hidden_layers": 118, "num_attention_heads": 48}}  # fmt: skip
VIT = {"4b": {"model_type": "vit"}, "22b": {"model_type": "vit-22b"}}
# Not published: pose, size and colour of an object are 3 + 4, 3 and 3 numbers here; the MLPs as wide as PaLM 8B.
OBJECTS = {"size": 13, "hidden_size": 4096}
SLOTS = {"hidden_size": 4096, "embeddings": 4, "osrt_config": {"slots": 11}}


def sized(text: Mapping[str, Any], **senses: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json of these parts."""
    return {"model_type": "palm-e", "text_config": dict(text), **senses}


@dataclass(frozen=True, kw_only=True)
class Senses:
    """The parts a config describes; None for a sense that it lacks.  state: numbers of an object, and what reads them;
    scene: OSRT, and what reads its slots.  placeholders: ids by modality."""

    backbone: DecoderConfig
    tower: ViTConfig | None
    state: tuple[int, EntityMLPConfig] | None
    scene: tuple[osrt.OSRTConfig, EntityMLPConfig] | None
    placeholders: Mapping[str, int]

    def build(self) -> MultimodalLM:
        """Fresh weights."""
        encoders: dict[str, nn.Module] = {}
        connectors: dict[str, nn.Module] = {}
        inputs, width = {}, self.backbone.width
        if self.tower is not None:
            encoders["image"] = self.tower.build()
            connectors["image"] = LinearConnectorConfig().build(self.tower.width, width)
        if self.state is not None:
            encoders["state"], (size, mlp) = nn.Identity(), self.state
            connectors["state"] = mlp.build(size, width)
            inputs["state"] = ModalityInputs(values=processing.STATES, connector=(f"counts={processing.COUNTS}",))
        if self.scene is not None:
            slots, mlp = self.scene
            encoders["scene"], connectors["scene"] = slots.build(), mlp.build(slots.slot_width, width)
        backbone = self.backbone.build()
        palm.initialise(backbone)
        return MultimodalLM(encoders, connectors, backbone, self.placeholders, inputs=inputs)

    @property
    def keys(self) -> KeyTable:
        """Names on disk -> ours."""
        table = palm.keys().prefixed("language_model.", "backbone.")
        if self.tower is not None:
            table += vit_22b.keys().prefixed("vision_model.", "encoders.image.")
            table += linear("vision_projection", "connectors.image.proj")
        for name, found in (("state", self.state), ("scene", self.scene)):
            if found is not None:
                for theirs, ours in (("0", "up_proj"), ("2", "down_proj")):
                    table += linear(f"{name}_projection.{theirs}", f"connectors.{name}.mlp.{ours}")
        if self.scene is not None:
            table += osrt.keys(self.scene[0]).prefixed("osrt.", "encoders.scene.")
        return table

    @property
    def drawing(self) -> tuple[Part, ...]:
        """The boxes of `show`."""
        parts, width = [], self.backbone.width
        if self.tower is not None:
            side, seen = self.tower.image_size, f"[N, {self.tower.tokens}, {self.tower.width}]"
            parts += [
                Part(slot="encoder", modality="image", name=f"ViT, {len(self.tower.blocks)} blocks", output=seen,
                     input=f"[N, 3, {side}, {side}]", prefix="encoders.image", tokens=self.tower.tokens),
                Part(slot="connector", modality="image", name="affine map", prefix="connectors.image", input=seen,
                     output=f"[N, {self.tower.tokens}, {width}]", tokens=self.tower.tokens)]  # fmt: skip
        if self.state is not None:
            size, mlp = self.state
            parts.append(Part(slot="connector", modality="state", name="MLP", prefix="connectors.state",
                              input=f"[objects, {size}]", output=f"[objects * {mlp.embeddings}, {width}]"))  # fmt: skip
        if self.scene is not None:
            found, mlp = self.scene
            slots, count = f"[N, {found.slots}, {found.slot_width}]", mlp.tokens(found.slots)
            parts += [
                Part(slot="encoder", modality="scene", name="OSRT, slots of objects", prefix="encoders.scene",
                     input="[N, V, H, W, 9]", output=slots, tokens=found.slots),
                Part(slot="connector", modality="scene", name="MLP", prefix="connectors.scene", input=slots,
                     output=f"[N, {count}, {width}]", tokens=count)]  # fmt: skip
        return (*parts, Part(slot="backbone", name="PaLM", prefix="backbone", input=f"[B, T, {width}]",
                             output="[B, T, V]"))  # fmt: skip


def parts_of(config: Mapping[str, Any]) -> Senses:
    """A config as `sized` writes it -> its parts; raises ConfigError for options that are not supported."""
    backbone = palm.parse_config(config.get("text_config") or {})
    vision, state, scene = (config.get(f"{name}_config") for name in ("vision", "state", "scene"))
    if vision is None and state is None and scene is None:
        raise ConfigError("palm-e: expected a vision_config, state_config or scene_config, found none")
    present = {"image": vision, "state": state, "scene": scene}
    # The vocabulary's last ids, unless the config says others.
    ids = {name: config.get(f"{name}_token_id", backbone.vocab_size - 1 - place) for place, name in enumerate(present)}
    return Senses(
        backbone=backbone,
        tower=None if vision is None else vit_22b.parse_config(vision),
        state=None if state is None else (_whole(state, "state_config", "size"), _mlp(state, "state_config")),
        scene=None
        if scene is None
        else (osrt.parse_config(scene.get("osrt_config") or {}), _mlp(scene, "scene_config")),
        placeholders={name: ids[name] for name, table in present.items() if table is not None},
    )


def _mlp(table: Mapping[str, Any], where: str) -> EntityMLPConfig:
    known = {"size", "hidden_size", "embeddings", "osrt_config"}
    if unknown := set(table) - known:
        raise ConfigError(f"palm-e: {where}: {sorted(unknown)} is not supported; it takes {', '.join(sorted(known))}")
    return EntityMLPConfig(hidden_width=_whole(table, where, "hidden_size"), embeddings=table.get("embeddings", 1))


def _whole(table: Mapping[str, Any], where: str, name: str) -> int:
    found = table.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ConfigError(f"palm-e: {where}.{name}: expected a whole number above 0, found {str(found)[:40]!r}")
    return found


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as `sized` writes it -> the model, at any size; raises ConfigError as `parts_of` does."""
    found = parts_of(config)

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        side: Any = None if found.tower is None else (found.tower.image_size, found.tower.tokens)
        scene = None if found.scene is None else (found.scene[0], found.scene[1].embeddings)
        state = None if found.state is None else (found.state[0], found.state[1].embeddings)
        processor = processing.processor(
            files, found.placeholders, picture=side, state=state, scene=scene, max_length=found.backbone.max_length
        )
        return LoadedModel(model=module, processor=processor)

    return ModelSpec(build=found.build, keys=(found.keys,), parts=found.drawing, assemble=assemble)
