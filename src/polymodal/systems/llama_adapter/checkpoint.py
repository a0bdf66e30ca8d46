"""Names, sizes and the prompt of LLaMA-Adapter's official files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from polymodal.backbones import llama_meta
from polymodal.backbones.decoder import DecoderConfig
from polymodal.data.messages import Message
from polymodal.data.processor import Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.prefix import GatedPrefixConfig
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split
from polymodal.weights.merged import Locations, MergedTensors
from polymodal.weights.operations import Reshape

ASKING = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n"
)
TEMPLATE = Template(
    begin=(Special(name="<s>"), TEXT_START),
    turns={
        "user": Turn(before=(Words(text=ASKING),), after=(Words(text="\n\n### Response:"),)),
        "assistant": Turn(after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
    },
)


def one_instruction(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A question and maybe its answer, as in training.  Raises PromptError for anything else."""
    if [message.role for message in messages] not in (["user"], ["user", "assistant"]):
        raise PromptError("llama-adapter takes one instruction, and maybe its answer")
    return messages


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """Settings in the official constructor's words (with `params.json`'s) -> the model, at any size."""
    plain, layers = llama_meta.shape_of(config).config(), config["adapter_layer"]
    if not 1 <= layers <= plain.depth:
        raise ConfigError(f"llama-adapter: adapter_layer {layers} must be in 1..{plain.depth}")
    prefix, first = GatedPrefixConfig(length=config["adapter_len"]), plain.depth - layers
    blocks = [
        replace(block, attention=replace(block.attention, prefix=prefix)) if i >= first else block
        for i, block in enumerate(plain.blocks)
    ]
    text = replace(plain, blocks=tuple(blocks))

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        processor = Processor(tokenizer=files.tokenizer(pad="<unk>"), template=TEMPLATE, max_length=text.max_length,
                              rewrite=one_instruction)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    backbone = Part(slot="backbone", name=f"LLaMA with gated prompts in {layers} layers", prefix="backbone",
                    input=f"[B, T, {text.width}]", output=f"[B, T, {text.vocab_size}]")  # fmt: skip
    return ModelSpec(build=lambda: MultimodalLM({}, {}, text.build(), {}),
                     keys=(keys_of(text, layers).prefixed("", "backbone."),), parts=(backbone,),
                     assemble=assemble)  # fmt: skip


def keys_of(text: DecoderConfig, layers: int) -> KeyTable:
    """Meta's names, the prompts of all layers as one table, and the gates; those of other layers are dropped."""
    first, heads = text.depth - layers, text.blocks[0].attention.heads
    rows: list[Row] = [
        split("adapter_query.weight", [f"blocks.{first + i}.attn.prefix.prompt" for i in range(layers)]),
        *(drop(f"layers.{i}.attention.gate") for i in range(first)),
        rename("layers.{}.attention.gate", "blocks.{}.attn.prefix.gate", Reshape((1, heads, 1, 1), (heads,))),
    ]
    return KeyTable(tuple(rows)) + llama_meta.meta_keys(text)


def gather(files: CheckpointFiles) -> Mapping[str, torch.Tensor]:
    """One file with everything, or LLaMA's `consolidated.00.pth` and the adapter's file side by side."""
    loose = sorted(files.folder.glob("*.pth")) if files.folder.is_dir() else []
    if len(loose) < 2:
        return weights_in(files.folder, ("model", ""))
    found: Locations = {}
    for path in loose:
        tensors = weights_in(path, ("model", ""))
        found |= {name: (tensors, name) for name in tensors}
    return MergedTensors.of(found)


def infer(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The published settings where the shapes are those of LLaMA-7B with its adapter; None for others."""
    config = PUBLISHED
    rows = config["adapter_len"] * config["adapter_layer"]
    alike = tuple(shapes.get("adapter_query.weight", ())) == (rows, config["dim"])
    return dict(config) if alike and "visual_query.weight" not in shapes else None


PUBLISHED: dict[str, Any] = {
    "model_type": "llama_adapter", "dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256, "norm_eps": 1e-6,
    "vocab_size": 32000, "max_seq_len": 512, "adapter_len": 10, "adapter_layer": 30,
}  # fmt: skip
