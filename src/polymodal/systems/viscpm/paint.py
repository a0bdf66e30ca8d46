"""VisCPM-Paint's one file of weights, and the codec beside it.

    llm.* -> backbone      trans_block.* -> connectors.text      unet.* -> generators.image
    vae/config.json, vae/diffusion_pytorch_model.*     the folder `vae` of stable-diffusion-2-1-base, for `draw`

The config is CPM-Bee's json with that of diffusers' UNet2DConditionModel under `unet`; where it says nothing, the
U-Net is that of Stable Diffusion 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from polymodal.backbones import cpm_bee
from polymodal.backbones.cpm_bee_segments import TREE, NumberedIds, TreeContext
from polymodal.checkpoints.stable_diffusion import Codec
from polymodal.connectors.linear import LinearConnectorConfig
from polymodal.generators import unet, unet_keys
from polymodal.generators.noise_schedule import NoiseSchedule
from polymodal.models.latent_diffusion import LatentDiffusion
from polymodal.nn.norm import LayerNormConfig
from polymodal.pipelines.latent_painting import LatentPainter
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.viscpm import processor as tree
from polymodal.systems.viscpm.checkpoint import ANSWER, BEGIN, infer_backbone, parse_backbone
from polymodal.train.latents import LatentCollator
from polymodal.weights.keytable import KeyTable, rename

PAINT = "viscpm-paint"
UNET_2_1: dict[str, Any] = {
    "block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024,
    "layers_per_block": 2, "sample_size": 64, "use_linear_projection": True,
}  # fmt: skip
CODEC_PARAMETERS = 83_653_863


@dataclass(frozen=True, kw_only=True)
class Paint:
    """The parts."""

    backbone: cpm_bee.CPMBeeConfig
    unet: unet.UNetConfig
    linear: bool

    def build(self) -> LatentDiffusion:
        """Fresh weights."""
        width = self.unet.context
        connector = nn.Sequential(
            LinearConnectorConfig(bias=False).build(self.backbone.width, width), LayerNormConfig(eps=1e-6).build(width)
        )
        inputs = NumberedIds(vocab_size=self.backbone.vocab_size)
        return LatentDiffusion(self.backbone.build(), TreeContext(BEGIN, ANSWER), connector, self.unet.build(),
                               NoiseSchedule(), inputs.rewrite, frozenset({*TREE, "input_id_subs"}))  # fmt: skip

    @property
    def keys(self) -> KeyTable:
        """Names on disk -> ours."""
        bridge = [rename("trans_block.w_out_res.weight", "connectors.text.0.proj.weight")]
        bridge += [rename(f"trans_block.layernorm.{leaf}", f"connectors.text.1.{leaf}") for leaf in ("weight", "bias")]
        return (
            KeyTable(tuple(bridge))
            + unet_keys.published_keys(self.linear).prefixed("unet.", "generators.image.")
            + cpm_bee.KEYS.prefixed("llm.", "backbone.")
        )

    def drawing(self) -> tuple[Part, ...]:
        """The boxes of `show`."""
        side, width, context = self.unet.side, self.backbone.width, self.unet.context
        grid = f"[N, {self.unet.latent}, {side}, {side}]"
        return (
            Part(slot="backbone", name="CPM-Bee, reads a wish", prefix="backbone", input="[B, T]",
                 output=f"[B, T, {width}]"),
            Part(slot="output connector", modality="image", name="linear, norm", prefix="connectors.text",
                 input=f"[B, T, {width}]", output=f"[B, T, {context}]"),
            Part(slot="generator", modality="image", name="U-Net of Stable Diffusion 2.1", prefix="generators.image",
                 input=f"{grid}, [B, T, {context}]", output=grid),
            Part(slot="generator", modality="image", name="KL codec", prefix="", parameters=CODEC_PARAMETERS,
                 input=grid, output=f"[N, 3, {8 * side}, {8 * side}]"),
        )  # fmt: skip

    def assemble(self, module: Any, files: CheckpointFiles) -> LoadedModel:
        """What draws, from a folder with CPM-Bee's vocabulary."""
        tokenizer = files.tokenizer(control=(tree.UNKNOWN, tree.BEGIN, tree.END, tree.ROOT, tree.ANSWER))
        processor = tree.TreeProcessor(size=self.backbone.vocab_size, tokenizer=tokenizer, template=tree.TEMPLATE,
                                       max_length=self.backbone.max_length)  # fmt: skip

        def encode(texts: Sequence[str]) -> Mapping[str, Any]:
            rows = [processor.fit(processor.encode(tree.wish(text))) for text in texts]
            return processor.collate(rows, padding="right")

        codec = Codec(files.folder / "vae", "stable-diffusion-2-1-base")
        painter = LatentPainter(model=module, encode=encode, codec=codec, factor=codec.factor)
        side = self.unet.side * codec.factor

        def collator(objective: Any, learner: Any) -> Any:
            return LatentCollator(encode=encode, codec=codec, side=side, times=module.schedule.trained)

        return LoadedModel(model=module, processor=processor, paint=painter, collator=collator)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """CPM-Bee's json with the U-Net's config under `unet`, at any size."""
    described = {**UNET_2_1, **(config.get("unet") or {})}
    linear = bool(described["use_linear_projection"])
    found = Paint(backbone=parse_backbone(config), unet=unet.parse_config(described), linear=linear)
    return ModelSpec(build=found.build, keys=(found.keys,), parts=found.drawing(), assemble=found.assemble)


def infer(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of a file of VisCPM-Paint without one: the U-Net is that of Stable Diffusion 2.1."""
    bridge, backbone = shapes.get("trans_block.w_out_res.weight"), infer_backbone(shapes)
    if bridge is None or backbone is None or bridge[0] != UNET_2_1["cross_attention_dim"]:
        return None
    return {"model_type": PAINT, **backbone, "unet": {}}
