"""SEEChat (360 AI Research, 2023): MiniGPT-4's code with ChatGLM-6B, a Chinese conversation about one picture.

    pixel_values [N, 3, 224, 224] -> EVA ViT-g -> BLIP-2's Q-Former -> linear [N, 32, 4096]
    ###Human: <Img>features</Img> Q ###Assistant: A###Human: Q ###Assistant: [gMASK]<sop> -> ChatGLM-6B, hub's class

Traps: its page speaks of CLIP, its code loads EVA; the code's other language model (Vicuna) has no published weights;
the prefix of P-tuning is built for training alone, the demo runs without; an answer ends at "###".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from polymodal.backbones import chatglm
from polymodal.checkpoints import lavis, qformer_lm
from polymodal.checkpoints.chatglm_picture import PictureGLM, only_picture
from polymodal.connectors import qformer
from polymodal.connectors.qformer import QFormerConnectorConfig
from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.encoders import eva_vit
from polymodal.systems import (
    CheckpointFormat,
    DataSource,
    LanguageModeling,
    ModelSpec,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.weights.keytable import KeyTable, drop

ASK, ANSWER = "###Human: ", " ###Assistant: "


def one_question(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation as one question: the picture behind the first `###Human: `, then round by round."""
    media = only_picture(messages)
    answered = messages[-1].role == "assistant"
    said = ""
    for message in messages[:-1] if answered else messages:
        said += message.text if message.role == "assistant" else f"{ASK}{message.text}{ANSWER}"
    parts: tuple[Text | Media, ...] = (
        (Text(ASK), *media, Text(f" {said.removeprefix(ASK)}")) if media else (Text(said),)
    )
    question = Message(role="user", parts=parts)
    return (question, replace(messages[-1], parts=(Text(messages[-1].text),))) if answered else (question,)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The whole model under the official names, at any size."""
    encoder = eva_vit.parse_config(config.get("vision_config") or {}, official=True)
    decoder = chatglm.parse_config(config.get("text_config") or {})
    asked = qformer.parse_config(config.get("qformer_config") or {}, queries=config.get("num_query_token", 32),
                                 source_width=encoder.width)  # fmt: skip
    words = {"bos_token_id": 130004, "eos_token_id": 130005, "pad_token_id": 3, **(config.get("text_config") or {})}
    found = PictureGLM(
        encoder=encoder, connector=QFormerConnectorConfig(qformer=asked, out_width=decoder.width), decoder=decoder,
        placeholder=config.get("image_token_index", decoder.vocab_size), start=words["bos_token_id"],
        end=words["eos_token_id"], rewrite=one_question, tag="Img", stop=("###",),
    )  # fmt: skip
    keys = (
        lavis.vision_keys()
        + lavis.qformer_keys(asked, "connectors.image.qformer.")
        + qformer_lm.linear("llama_proj", "connectors.image.proj")
        + chatglm.hf_keys(decoder).prefixed("llama_model.", "backbone.")
        + KeyTable((drop("t5_proj.**"),))
    )
    return ModelSpec(build=found.build, keys=(keys,), parts=found.drawing(), assemble=found.assemble,
                     ends=((found.end,), words["pad_token_id"]))  # fmt: skip


TEXT = {"model_type": "chatglm", "vocab_size": 130528, "hidden_size": 4096, "num_layers": 28, "num_attention_heads": 32,
        "inner_hidden_size": 16384, "layernorm_epsilon": 1e-5, "max_sequence_length": 2048}  # fmt: skip

SYSTEM = System(
    id="seechat",
    aliases=("SEEChat",),
    year=2023,
    fusion=("C",),
    assembly="PrefixLM",
    inputs=("image", "text"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official SEEChat",
            parse_config=parse_config,
            matches=hf("see_chat"),
            entry=("model", ""),
            gather=partial(lavis.gather, language="llama_model"),
        ),
    ),
    variants=(
        Variant(
            name="chatglm-6b",
            parameters=7_802_138_496,
            config={"model_type": "see_chat", "text_config": TEXT},
            summary="its linear on a share; EVA ViT-g, BLIP-2's Q-Former and ChatGLM-6B come from elsewhere",
        ),
    ),
    headline="a Chinese conversation about a picture through one linear between frozen models",
    reference="github.com/360CVGroup/SEEChat",
    recipe=(
        Stage(
            name="align",
            data=(DataSource(name="Zero (R2D2)", kind="image-text pairs", samples=23_000_000),),
            objective=LanguageModeling(),
            train=("connectors.image.proj",),
            start="parts",
            note="64 tokens of source, the picture among them, and 64 of answer; no rate was published",
        ),
        Stage(
            name="instruct",
            data=(DataSource(name="LLaVA's instructions in Chinese", kind="conversations", samples=158_000),),
            objective=LanguageModeling(),
            train=("connectors.image.proj", "backbone"),
            start="align",
            note="no rate was published; the code's own way is a prefix of 128 (P-tuning), which its demo leaves out",
        ),
    ),
)
