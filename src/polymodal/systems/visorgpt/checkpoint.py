"""Published checkpoints of VisorGPT: config to model, and what writes and draws layouts.

visorgpt_dagger_ta_tb.pt                  TencentPretrain's names
config.json, its models/gpt2/config.json with model_type "visorgpt" and vocab_size; may be left out
vocab.txt, its google_uncased_en_coord_vocab.txt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from polymodal.backbones import tencent_gpt
from polymodal.backbones.tencent_gpt import WORDS
from polymodal.data.processor import Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.visorgpt.painter import BEGIN, END, SAMPLING, LayoutPainter

TEMPLATE = Template(turns={"user": Turn(), "assistant": Turn(loss_mask=True)},
                    begin=(Special(name=BEGIN), TEXT_START), end=(Special(name=END, loss_mask=True),))  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as the module docstring has it, at any size."""
    decoder = tencent_gpt.parse_config(config)

    def assemble(module: nn.Module, files: CheckpointFiles, most: int) -> LoadedModel:
        assert isinstance(module, MultimodalLM)
        words = files.tokenizer()
        processor = Processor(tokenizer=words, template=TEMPLATE, max_length=most)
        return LoadedModel(model=module, processor=processor, sampling=SAMPLING,
                           paint=LayoutPainter(model=module, processor=processor, room=most))  # fmt: skip

    part = Part(slot="backbone", name="GPT of TencentPretrain", prefix="backbone", input=f"[B, T, {decoder.width}]",
                output=f"[B, T, {decoder.vocab_size}]")  # fmt: skip
    drawer = Part(slot="generator", name="layouts drawn as they say", prefix="", input="layouts in words",
                  output="a picture of them", modality="image")  # fmt: skip
    return ModelSpec(
        build=lambda: MultimodalLM({}, {}, decoder.build(), {}, positions_ignore_padding=False),
        keys=(tencent_gpt.keys().prefixed("", "backbone."),),
        parts=(part, drawer),
        assemble=partial(assemble, most=decoder.max_length),
        ends=((config.get("sep_token_id", 102),), config.get("pad_token_id", 0)),
    )


def infer(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of a file without one; heads are 64 wide."""
    layer = "encoder.transformer.0.feed_forward.linear_1.weight"
    if WORDS not in shapes or layer not in shapes or "encoder.layer_norm.gamma" not in shapes:
        return None
    size, width = shapes[WORDS]
    layers = {name.split(".")[2] for name in shapes if name.startswith("encoder.transformer.")}
    return {"model_type": "visorgpt", "vocab_size": size, "hidden_size": width, "emb_size": width,
            "feedforward_size": shapes[layer][0], "heads_num": max(1, width // 64), "layers_num": len(layers),
            "max_seq_length": shapes["embedding.pos.embedding.weight"][0]}  # fmt: skip
