"""Published files of InternLM-XComposer: its prompt, config to model, names of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.backbones import hf_text
from polymodal.checkpoints import lavis, qformer_lm
from polymodal.checkpoints.peft_lm import adapted_keys, build_adapted
from polymodal.checkpoints.qformer_chat import PICTURE
from polymodal.connectors import qformer
from polymodal.connectors.framed_qformer import FramedQFormerConfig
from polymodal.data.hf_image import transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.encoders import eva_vit
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
)
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.operations import Squeeze

_NAME, _CHINESE = "\u6d66\u8bed", "\u4e2d\u6587"
_PLACE = "Shanghai AI Laboratory (\u4e0a\u6d77\u4eba\u5de5\u667a\u80fd\u5b9e\u9a8c\u5ba4)"
META = (
    f"meta instruction\nYou are an AI assistant whose name is {_NAME}.\n- {_NAME} is a conversational language model "
    f"that is developed by {_PLACE}. It is designed to be helpful, honest, and harmless.\n- {_NAME} can understand and "
    f"communicate fluently in the language chosen by the user such as English and {_CHINESE}.\nconversation\n"
)
ASKED, ANSWERED = "<TOKENS_UNUSED_0>", "<TOKENS_UNUSED_1>"
ENDS = {"eoh": 103027, "eoa": 103028, "eos": 2}
"""Ids that end an answer; of the first two, which the published code has as numbers, a config may name others."""
TEMPLATE = Template(
    turns={
        "user": Turn(before=(Words(text=" <|User|>:"),),
                     after=(Words(text="\n"), Special(name=ASKED), Words(text=" <|Bot|>:"))),
        "assistant": Turn(after=(Special(name=ANSWERED, loss_mask=True),), loss_mask=True),
    },
    begin=(Special(name="<s>"), TEXT_START, Words(text=META)),
)  # fmt: skip
LEARNED = {"q": ("q_proj",), "k": ("k_proj",), "v": ("v_proj",), "o": ("o_proj",), "ffn": ("up_proj", "down_proj")}
"""A word of `learn_param` -> the linears with low-rank paths."""


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The whole model that a published config.json describes, at any size."""
    if not config.get("intern_converted_llm", True):
        raise ConfigError("InternLMXComposer: intern_converted_llm false is not supported; published files have true")
    encoder = eva_vit.parse_config(config.get("vision_config") or {}, official=True)
    text = hf_text.parse_config({"rms_norm_eps": 1e-5, "vocab_size": 103168, **config, "model_type": "llama",
                                 "attention_bias": config.get("kqvo_bias", True)})  # fmt: skip
    width = text.config.width
    asked = qformer.parse_config(config.get("qformer_config") or {}, queries=config.get("num_query_token", 32),
                                 source_width=encoder.width)  # fmt: skip
    connector = FramedQFormerConfig(qformer=asked, out_width=width)
    paths = config.get("internlm_lora", config.get("lora_cfg")) or {}
    if unknown := set(paths.get("learn_param", ())) - set(LEARNED):
        raise ConfigError(f"internlm_lora.learn_param: unknown {sorted(unknown)}; known: {', '.join(LEARNED)}")
    targets = tuple(name for word in paths.get("learn_param", ()) for name in LEARNED[word])
    placeholder = config.get("image_token_index", text.config.vocab_size)

    def build() -> MultimodalLM:
        decoder: Any = text.config
        backbone: Any = decoder.build() if not targets else build_adapted(decoder, targets, paths.get("lora_r", 8),
                                                                          paths.get("lora_alpha", 16))  # fmt: skip
        return MultimodalLM({"image": encoder.build()}, {"image": connector.build()}, backbone, {"image": placeholder},
                            positions_ignore_padding=text.positions_ignore_padding)  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side, tokenizer = encoder.image_size, files.tokenizer(control=(ASKED, ANSWERED))
        transform = transform_of(files.preprocessor, {**PICTURE, "size": {"height": side, "width": side}})
        image = Modality(name="image", placeholder="", placeholder_id=placeholder, transform=transform,
                         tokens=SameCount(connector.tokens), after=(TEXT_START,))  # fmt: skip
        processor = Processor(tokenizer=tokenizer, template=TEMPLATE, modalities=(image,),
                              max_length=text.config.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    ours = "connectors.image."
    marks = (rename(f"flag_image_{theirs}", f"{ours}{mine}", Squeeze(), Squeeze())
             for theirs, mine in (("start", "begin"), ("end", "end")))  # fmt: skip
    body = (
        lavis.vision_keys()
        + lavis.qformer_keys(asked, f"{ours}qformer.")
        + qformer_lm.linear("internlm_proj", f"{ours}proj")
        + KeyTable((*marks, drop("Qformer.bert.embeddings.position_ids")))
    )
    keys = tuple(body + adapted_keys(table, targets).prefixed("internlm_model.", "backbone.") for table in text.keys)
    ends = tuple(config.get(f"{name}_token_id", id) for name, id in ENDS.items())
    return ModelSpec(build=build, keys=keys, parts=_drawing(encoder, connector), assemble=assemble,
                     ends=(ends, config.get("eos_token_id", 2)))  # fmt: skip


def _drawing(encoder: Any, connector: FramedQFormerConfig) -> tuple[Part, ...]:
    side, width, seen = encoder.image_size, connector.out_width, f"[N, {encoder.tokens}, {encoder.width}]"
    return (
        Part(slot="encoder", modality="image", name="EVA-CLIP ViT-g/14, 39 blocks", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=encoder.tokens),
        Part(slot="connector", modality="image", name=f"Q-Former of {connector.tokens - 2} queries, linear, two marks",
             prefix="connectors.image", input=seen, output=f"[N, {connector.tokens}, {width}]",
             tokens=connector.tokens),
        Part(slot="backbone", name="InternLM-7B with low-rank paths", prefix="backbone", input=f"[B, T, {width}]",
             output="[B, T, V]"),
    )  # fmt: skip
