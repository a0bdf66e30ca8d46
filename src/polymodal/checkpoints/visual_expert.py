"""CogVLM's visual expert, which CogAgent and CogCoM have too, and the order of its prompt.

Papers: CogVLM (arXiv 2311.03079), CogAgent (2312.08914).

    <s>, the picture, all rounds as one text, each of the three tokenised by itself; then the answer and </s>
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints.record import Part
from polymodal.connectors.glu import GLUConnectorConfig
from polymodal.data.media import Image
from polymodal.data.messages import Message
from polymodal.data.processor import kind_counts
from polymodal.data.template import TEXT_START, Special, Template, Turn
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import PromptError
from polymodal.fusion.routing import ExpertRoutes, RoutedLinearConfig, RoutedMLPConfig
from polymodal.nn.attention import AttentionLinears
from polymodal.weights.keytable import KeyTable, drop, rename, split

TEXT = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
        "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")  # fmt: skip
"""What a config.json says of the language model."""


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
    begin=(Special(name="<s>"), TEXT_START),
    turns={
        "user": Turn(),
        "assistant": Turn(before=(TEXT_START,), after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
    },
)


Rounds = tuple[list[Image], list[tuple[str, str]], str, Sequence[Message]]


def rounds_of(messages: Sequence[Message], name: str) -> Rounds:
    """Pictures, earlier rounds (question, answer), the last question and what follows it, of a conversation.

    Raises PromptError for more than one picture, roles other than user and assistant, or turns out of order.
    """
    media = [part for message in messages for part in message.media]
    pictures = [each for each in media if isinstance(each, Image) and each.modality == "image"]
    for each in media:
        if not isinstance(each, Image) or each.modality != "image":
            found = each.modality or type(each).__name__.lower()
            raise PromptError(f"messages: this model takes text, image; found {found}")
    if len(pictures) > 1:
        raise PromptError(f"{name} takes one picture a conversation; found {len(pictures)}")
    if any(message.role != ("user", "assistant")[i % 2] for i, message in enumerate(messages)):
        raise PromptError(f"{name}: expected user and assistant in turn, the user first")
    last = len(messages) - (1 if len(messages) % 2 else 2)
    rounds = zip(messages[:last:2], messages[1:last:2], strict=True)
    return pictures, [(asked.text, said.text) for asked, said in rounds], messages[last].text, messages[last + 1 :]


def finish(batch: dict[str, Any]) -> dict[str, Any]:
    """With a picture, routes and positions are made from `token_type_ids`, as published."""
    if not batch["item_counts"]["image"].any():
        return batch
    made = {name: value for name, value in batch.items() if name not in ("token_types", "position_ids")}
    made["token_type_ids"] = batch["token_types"]
    made |= ExpertRoutes()(made)
    return made | {"token_type_counts": kind_counts(made["token_types"])}


def drawing(tower: ViTConfig, connector: GLUConnectorConfig, text: DecoderConfig) -> tuple[Part, ...]:
    """The boxes of a picture in one size, with its two markers."""
    side, seen, count = tower.image_size, f"[N, {tower.tokens}, {tower.width}]", connector.tokens(tower.tokens)
    return (
        Part(slot="encoder", modality="image", name="EVA2-CLIP-E", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="connector", modality="image", name="gated MLP, two markers", prefix="connectors.image", input=seen,
             output=f"[N, {count}, {text.width}]", tokens=count),
        Part(slot="backbone", name="Vicuna with a visual expert in every layer", prefix="backbone",
             input=f"[B, T, {text.width}]", output=f"[B, T, {text.vocab_size}]"),
    )  # fmt: skip
