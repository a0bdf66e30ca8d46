"""MiniGPT-v2 (arXiv 2310.09478): one chat model whose tasks are told apart by words in brackets, boxes written as text.

    pixel_values [N, 3, 448, 448] -> EVA ViT-g -> ln_vision -> 1024 features without the class token
    -> four neighbours of a row joined [N, 256, 5632] -> linear -> LLaMA-2 chat, whose q and v have low-rank paths

    <s>[INST] <Img><ImageHere></Img> [refer] give me the location of the cat [/INST]{<31><12><70><95>}</s>

Traps: `ln_vision` was neither loaded nor trained and is in no published file: weight 1, bias 0; boxes count in
hundredths of a side (`boxes.py`); a low-rank path is scaled by 16 / 64; EVA's positions are those of 224 and are
resized; the demo writes two begin tokens and no end token, training one of each, as here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polymodal.checkpoints import lavis, minigpt
from polymodal.data.processor import Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.systems import CheckpointFiles, CheckpointFormat, LoadedModel, ModelSpec, System, Variant, hf
from polymodal.systems.minigpt_v2.recipe import RECIPE, TARGETS
from polymodal.weights.merged import MergedTensors, locations
from polymodal.weights.tensors import shape_of

SIDE, PATCH = 448, 14
TEMPLATE = Template(
    turns={
        "user": Turn(before=(Special(name="<s>"), TEXT_START, Words(text="[INST] ")), after=(Words(text=" [/INST]"),)),
        "assistant": Turn(before=(TEXT_START,), after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
    }
)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The whole model under the official names, at any size; lora_r 0: the low-rank paths were merged."""
    vision = {"image_size": SIDE, **(config.get("vision_config") or {})}
    given = {"lora_r": 64, "lora_alpha": 16, **config, "has_qformer": False, "vision_config": vision}
    found = minigpt.parse_config(given, TARGETS)

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        processor = Processor(tokenizer=files.tokenizer(added=(minigpt.HERE,)), template=TEMPLATE,
                              modalities=(found.picture(files),), max_length=found.text.config.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    return ModelSpec(build=found.build, keys=found.keys, parts=found.drawing("LLaMA-2 chat, low-rank paths in q and v"),
                     assemble=assemble)  # fmt: skip


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """One file of everything, or EVA's own, the published checkpoint and LLaMA-2 in a subfolder."""
    vision = files.json("config.json").get("vision_config") or {}
    grid = vision.get("image_size", SIDE) // vision.get("patch_size", PATCH)
    found = lavis.gather(files, minigpt.LLAMA.removesuffix("."), grid)
    if "ln_vision.weight" in found or "visual_encoder.cls_token" not in found:
        return found
    width = shape_of(found, "visual_encoder.cls_token")[-1]
    norm = {"ln_vision.weight": torch.ones(width), "ln_vision.bias": torch.zeros(width)}
    return MergedTensors.of(locations(found) | locations(norm))


TEXT = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32000, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096}  # fmt: skip

SYSTEM = System(
    id="minigpt-v2",
    aliases=("MiniGPT-v2", "MiniGPTv2"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("image", "text"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official MiniGPT-v2",
            parse_config=parse_config,
            matches=hf("minigpt_v2"),
            entry=("model", ""),
            gather=gather,
        ),
    ),
    variants=(
        Variant(
            name="7b",
            parameters=7_782_021_504,
            config={"model_type": "minigpt_v2", "text_config": TEXT},
            summary="stages 2 and 3 on Google Drive; EVA ViT-g and LLaMA-2 chat 7B come from elsewhere",
        ),
    ),
    headline="says where things are: phrases and their boxes in the text of one chat model, tasks chosen by a word",
    reference="arXiv 2310.09478",
    recipe=RECIPE,
)
