"""Published checkpoints of MiniGPT-4: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones import hf_text
from polymodal.checkpoints import lavis, qformer_lm
from polymodal.checkpoints.qformer_chat import PICTURE
from polymodal.connectors import qformer
from polymodal.connectors.neighbours import NeighboursConfig
from polymodal.connectors.qformer import QFormerConnectorConfig
from polymodal.data.hf_image import transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.encoders import eva_vit
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
    Variant,
)
from polymodal.weights.keytable import KeyTable, drop

HERE = "<ImageHere>"  # one per feature of a picture
SYSTEM_WORDS = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)


BEFORE, AFTER = (Words(text="<Img>"),), (TEXT_START, Words(text="</Img> "))


def template(llama_2: bool) -> Template:
    """The prompt of the demo: `system###Human: ...###Assistant: ...###`, or LLaMA-2's brackets."""
    begin = (Special(name="<s>"), TEXT_START, Words(text=SYSTEM_WORDS + ("" if llama_2 else "###")))
    if llama_2:
        user = Turn(before=(Special(name="<s>"), Words(text="[INST] ")), after=(Words(text=" [/INST] "),))
        return Template(turns={"user": user, "assistant": Turn(loss_mask=True)}, begin=begin)
    user = Turn(before=(Words(text="Human: "),), after=(Words(text="###"),))
    assistant = Turn(before=(Words(text="Assistant: "),), after=(Words(text="###", loss_mask=True),), loss_mask=True)
    return Template(turns={"user": user, "assistant": assistant}, begin=begin, ask=assistant.before)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The whole model under the official names, at any size."""
    vision, asked = config.get("vision_config") or {}, config.get("qformer_config") or {}
    encoder, text = eva_vit.parse_config(vision, official=True), hf_text.parse_config(config.get("text_config") or {})
    has_qformer = config.get("has_qformer", True)
    connector: QFormerConnectorConfig | NeighboursConfig
    keys = lavis.vision_keys() + KeyTable((drop("t5_proj.**"),))
    if has_qformer:
        tokens = config.get("num_query_token", 32)
        reads = qformer.parse_config(asked, queries=tokens, source_width=encoder.width)
        connector = QFormerConnectorConfig(qformer=reads, out_width=text.config.width)
        keys += lavis.qformer_keys(reads, "connectors.image.qformer.")
    else:
        encoder = replace(encoder, keep_class=False)
        connector = NeighboursConfig(width=encoder.width, out_width=text.config.width)
        tokens = connector.tokens(encoder.tokens)
    keys += qformer_lm.linear("llama_proj", "connectors.image.proj")
    placeholder = config.get("image_token_index", text.config.vocab_size)

    def build() -> MultimodalLM:
        backbone: Any = text.config.build()
        return MultimodalLM({"image": encoder.build()}, {"image": connector.build()}, backbone, {"image": placeholder},
                            positions_ignore_padding=text.positions_ignore_padding)  # fmt: skip

    seen, width = f"[N, {encoder.tokens}, {encoder.width}]", text.config.width
    name = f"Q-Former of {tokens} queries + linear" if has_qformer else "4 neighbours joined + linear"
    parts = (
        Part(
            slot="encoder",
            modality="image",
            name="EVA-CLIP ViT-g/14, 39 blocks",
            prefix="encoders.image",
            input="[N, 3, 224, 224]",
            output=seen,
            tokens=encoder.tokens,
        ),
        Part(
            slot="connector",
            modality="image",
            name=name,
            prefix="connectors.image",
            input=seen,
            output=f"[N, {tokens}, {width}]",
            tokens=tokens,
        ),
        Part(
            slot="backbone", name="Vicuna or LLaMA-2", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"
        ),
    )

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side = encoder.image_size
        transform = transform_of(files.preprocessor, {**PICTURE, "size": {"height": side, "width": side}})
        image = Modality(name="image", placeholder=HERE, transform=transform, tokens=SameCount(tokens),
                         before=BEFORE, after=AFTER)  # fmt: skip
        words = template(llama_2=not has_qformer)
        processor = Processor(tokenizer=files.tokenizer(added=(HERE,)), template=words, modalities=(image,))
        return LoadedModel(model=module, processor=processor, stop=("###",) if has_qformer else ())

    spellings = tuple(keys + table.prefixed("llama_model.", "backbone.") for table in text.keys)
    return ModelSpec(build=build, keys=spellings, parts=parts, assemble=assemble)


def _variant(name: str, parameters: int, llama_2: bool, width: int, depth: int, ffn_width: int) -> Variant:
    text = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": depth,
            "num_attention_heads": width // 128, "intermediate_size": ffn_width, "vocab_size": 32000,
            "rms_norm_eps": 1e-5 if llama_2 else 1e-6,
            "max_position_embeddings": 4096 if llama_2 else 2048}  # fmt: skip
    return Variant(name=name, parameters=parameters,
                   config={"model_type": "minigpt4", "has_qformer": not llama_2, "text_config": text})  # fmt: skip
