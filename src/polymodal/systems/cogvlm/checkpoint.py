"""What CogVLM adds to a LLaMA decoder and how its prompts are written; see `cogvlm.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.data.media import Image, Text
from polymodal.data.messages import Message
from polymodal.data.template import Special, Template, Turn
from polymodal.errors import PromptError
from polymodal.fusion.routing import RoutedLinearConfig, RoutedMLPConfig
from polymodal.nn.attention import AttentionLinears
from polymodal.weights.keytable import KeyTable, drop, rename, split


def with_expert(config: DecoderConfig) -> DecoderConfig:
    """Every projection of every block twice: branch 0 for language, 1 for pictures; the norms are shared."""
    routed = RoutedLinearConfig()
    linears = AttentionLinears(q=routed, k=routed, v=routed, o=routed)
    blocks = []
    for block in config.blocks:
        attention = replace(block.attention, linears=linears)
        blocks.append(replace(block, attention=attention, mlp=RoutedMLPConfig(branches=(block.mlp,) * 2)))
    return replace(config, blocks=tuple(blocks))


def expert_keys(config: DecoderConfig) -> KeyTable:
    """The names of the published language model -> a decoder with the visual expert."""
    rows = [drop("model.layers.{}.self_attn.rotary_emb.inv_freq")]
    for branch, name in enumerate(("language", "vision")):
        attention, mlp = f"model.layers.{{}}.self_attn.{name}_expert", f"model.layers.{{}}.mlp.{name}_mlp"
        targets = [f"blocks.{{}}.attn.{part}_proj.branches.{branch}.weight" for part in "qkv"]
        rows.append(split(f"{attention}_query_key_value.weight", targets))
        rows.append(rename(f"{attention}_dense.weight", f"blocks.{{}}.attn.o_proj.branches.{branch}.weight"))
        for part in ("gate_proj", "up_proj", "down_proj"):
            rows.append(rename(f"{mlp}.{part}.weight", f"blocks.{{}}.mlp.branches.{branch}.{part}.weight"))
    return KeyTable(tuple(rows)) + llama.hf_keys(config)


TEMPLATE = Template(
    begin=(Special(name="<s>"),),
    turns={"user": Turn(), "assistant": Turn(after=(Special(name="</s>", loss_mask=True),), loss_mask=True)},
)


def written_out(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """The published prompt: the picture first, then all rounds as one text "Question: ... Answer: ...".

    Raises PromptError for more than one picture, roles other than user and assistant, or turns out of order.
    """
    pictures = [part for message in messages for part in message.media]
    if other := [media for media in pictures if not isinstance(media, Image)]:
        raise PromptError(f"messages: this model takes text, image; found {type(other[0]).__name__.lower()}")
    if len(pictures) > 1:
        raise PromptError(f"cogvlm takes one picture a conversation; found {len(pictures)}")
    if any(message.role != ("user", "assistant")[i % 2] for i, message in enumerate(messages)):
        raise PromptError("cogvlm: expected user and assistant in turn, the user first")
    last = len(messages) - (1 if len(messages) % 2 else 2)
    rounds = zip(messages[:last:2], messages[1:last:2], strict=True)
    history = "".join(f"Question: {asked.text} {words} {said.text}\n" for asked, said in rounds)
    question = messages[last].text
    prompt = f"{history}Question: {question} {words}" if words else question
    return (Message(role="user", parts=(*pictures, Text(prompt))), *messages[last + 1 :])


def named(pictures: list[torch.Tensor]) -> dict[str, Any]:
    """Pictures under the name the published processor gives them."""
    return {"images": torch.stack(pictures)}


def finish(batch: dict[str, Any]) -> dict[str, Any]:
    """With a picture, routes and positions are made by the model from `token_type_ids`, as published."""
    if "images" not in batch:
        return batch
    return {name: value for name, value in batch.items() if name not in ("token_types", "position_ids")} | {
        "token_type_ids": batch["token_types"]
    }
