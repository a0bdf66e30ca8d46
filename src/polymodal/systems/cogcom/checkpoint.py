"""CogCoM as SwissArmyTransformer keeps it, and how its turns are written, placed and read; see the package."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints.visual_expert import drawing, expert_keys, with_expert
from polymodal.connectors.glu import GLUConnectorConfig, cogvlm_keys
from polymodal.data.item_rules import SameCount, StackedAs
from polymodal.data.media import Image, Media, Text
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor, kind_counts
from polymodal.data.template import TEXT_START, Segment, Special, Template, Turn
from polymodal.data.transforms import CLIP_MEAN, CLIP_STD, Squash
from polymodal.encoders import eva2_clip
from polymodal.encoders.vit import ViTConfig, sides
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.routing import ExpertRoutes, shared_positions
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec
from polymodal.systems.cogcom.manipulations import grounded, next_turn, turns_of
from polymodal.weights.keytable import KeyTable

CLASS = "CogCoMModel"
BEGIN, END, PAD = 1, 2, 0  # Vicuna's <s>, </s>, <unk>
MEMORY = 20_000
"""Tokens of all turns together: the length of the mask that the published code keeps of them."""
FIXED = {"layernorm_order": "pre", "model_parallel_size": 1, "use_bias": False}
FIXED_OF_TOWER = {"layernorm_order": "post", "use_final_layernorm": False, "pre_len": 1, "post_len": 0}


def _turns(end: tuple[Special, ...]) -> Template:
    return Template(turns={"user": Turn(before=(Special(name="<s>"), TEXT_START)),
                           "assistant": Turn(before=(TEXT_START,), after=end, loss_mask=True)})  # fmt: skip


LEARNED, CONTINUED = _turns((Special(name="</s>", loss_mask=True),)), _turns(())


class Turns:
    """Every turn begins with <s>; its answer ends with </s> where it is learned, not where the chain is continued."""

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        return (CONTINUED if ask else LEARNED).render(messages, ask=ask)


def written_out(messages: Sequence[Message]) -> tuple[Message, ...]:
    """One picture in front of the words of every turn; answers that hold several turns are taken apart.

    A question without a picture is about the last one that was given.  Raises PromptError for more than one picture
    in a message, other media, or turns out of order.
    """
    if any(message.role != ("user", "assistant")[i % 2] for i, message in enumerate(messages)):
        raise PromptError("cogcom: expected user and assistant in turn, the user first")
    made: list[Message] = []
    given: tuple[Media, ...] = ()
    for message in messages:
        media = message.media
        for each in media:
            if not isinstance(each, Image) or each.modality != "image" or message.role != "user":
                found = each.modality or type(each).__name__.lower()
                raise PromptError(f"messages: this model takes text, and images of the user; found {found}")
        if len(media) > 1:
            raise PromptError(f"cogcom takes one picture a turn; found {len(media)}")
        given = media or given
        text = Text(re.sub("<pad>|<s>|</s>|<EOI>", "", message.text))
        if message.role == "user":
            made.append(Message(role="user", parts=(*given, text)))
        else:
            made += turns_of(made.pop(), text.text)
    return tuple(made)


def followed(messages: Sequence[Message], answer: str) -> Message | None:
    """The turn that an answer asks for, if it does."""
    return next_turn(written_out(messages), answer)


@dataclass(frozen=True)
class TurnRoutes:
    """`ExpertRoutes` of rows that hold several turns: positions start at 0 at every begin token.

    Tokens see those of all turns before theirs, so turns are no segments of a packed row.
    """

    input_names = ExpertRoutes.input_names

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds nothing to a batch that was prepared already, as the processor does on the host."""
        if batch.get("image_mask") is not None or batch.get("input_ids") is None:
            return {}
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        turns = (ids == BEGIN).long().cumsum(-1)
        made = ExpertRoutes()({**batch, "segments": turns})
        if "position_ids" not in made:
            kinds = ids.new_zeros(ids.shape) if mask is None else ids.new_zeros(ids.shape).masked_fill(mask == 0, -1)
            made["position_ids"] = shared_positions(kinds, turns)
        return made


def finish(batch: dict[str, Any]) -> dict[str, Any]:
    """Routes and positions by turns, on the host."""
    made = {name: value for name, value in batch.items() if name not in ("token_types", "position_ids")}
    made["token_type_ids"] = batch["token_types"]
    made |= TurnRoutes()(made)
    made.setdefault("token_types", batch["token_types"])
    return made | {"token_type_counts": kind_counts(made["token_types"])}


def sat_keys(tower: ViTConfig, text: DecoderConfig) -> KeyTable:
    """SwissArmyTransformer's names -> ours, by way of the hub's names of CogVLM."""
    vision = eva2_clip.hf_keys(tower).reworded({
        "patch_embedding.cls_embedding": "transformer.word_embeddings.weight",
        "patch_embedding.position_embedding": "transformer.position_embeddings",
        "patch_embedding.proj": "mixins.patch_embedding.proj",
        "mlp.fc1": "mlp.dense_h_to_4h", "mlp.fc2": "mlp.dense_4h_to_h"})  # fmt: skip
    attention, mlp = "model.layers.{}.self_attn", "model.layers.{}.mlp"
    words = expert_keys(text).reworded({
        f"{attention}.rotary_emb": "mixins.rotary.rotary_emb",
        f"{attention}.language_expert_": "transformer.layers.{}.attention.",
        f"{attention}.vision_expert_query_key_value": "mixins.rotary.vision_query_key_value_list.{}",
        f"{attention}.vision_expert_dense": "mixins.rotary.vision_dense_list.{}",
        f"{mlp}.language_mlp.gate_proj": "mixins.mlp.gate_proj.{}",
        f"{mlp}.language_mlp.up_proj": "transformer.layers.{}.mlp.dense_h_to_4h",
        f"{mlp}.language_mlp.down_proj": "transformer.layers.{}.mlp.dense_4h_to_h",
        f"{mlp}.vision_mlp.gate_proj": "mixins.mlp.vision_gate_proj.{}",
        f"{mlp}.vision_mlp.up_proj": "mixins.mlp.vision_dense_h_to_4h_list.{}",
        f"{mlp}.vision_mlp.down_proj": "mixins.mlp.vision_dense_4h_to_h_list.{}",
        "model.embed_tokens": "transformer.word_embeddings", "model.norm": "transformer.final_layernorm",
        "model.layers": "transformer.layers", "lm_head": "mixins.lm.lm_head"})  # fmt: skip
    return (
        vision.prefixed("mixins.eva.vit_model.", "encoders.image.")
        + cogvlm_keys(text.width).prefixed("mixins.eva.", "connectors.image.")
        + words.prefixed("", "backbone.")
    )


def tower_of(config: Mapping[str, Any]) -> ViTConfig:
    """The encoder of `eva_args`; the defaults are the published numbers."""
    _require(config, FIXED_OF_TOWER, "eva_args.")
    size = config.get("image_size", [490, 490])
    if len(size) != 2 or size[0] != size[1]:
        raise ConfigError(f"cogcom: eva_args.image_size: expected a square, found {size}")
    words = {"num_hidden_layers": "num_layers", "intermediate_size": "inner_hidden_size", "num_heads":
             "num_attention_heads", "layer_norm_eps": "layernorm_epsilon"}  # fmt: skip
    words |= {name: name for name in ("hidden_size", "patch_size", "in_channels")}
    given = {ours: config[theirs] for ours, theirs in words.items() if theirs in config}
    return eva2_clip.parse_config({**given, "image_size": size[0]})


def _require(config: Mapping[str, Any], fixed: Mapping[str, Any], prefix: str = "") -> None:
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise ConfigError(f"cogcom: {prefix}{name}: expected {value!r}, found {config[name]!r}")


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The arguments of a `model_config.json` -> the model.  Raises ConfigError for options that are not supported."""
    _require(config, FIXED)
    tower = tower_of(config.get("eva_args") or {})
    if config.get("image_length", tower.tokens) != tower.tokens:
        raise ConfigError(f"cogcom: image_length: expected the {tower.tokens} patches of a picture, found "
                          f"{config['image_length']}")  # fmt: skip
    ffn = config.get("inner_hidden_size", 11008)
    text = with_expert(llama.parse_config({
        "vocab_size": config.get("vocab_size", 32000), "hidden_size": config.get("hidden_size", 4096),
        "num_hidden_layers": config.get("num_layers", 32), "intermediate_size": ffn,
        "num_attention_heads": config.get("num_attention_heads", 32), "max_position_embeddings": MEMORY,
        "rms_norm_eps": config.get("layernorm_epsilon", 1e-5)}))  # fmt: skip
    connector = GLUConnectorConfig(ffn_width=ffn)
    inputs = {"image": ModalityInputs(values="images", placeholder_mask="image_mask")}

    def build() -> MultimodalLM:
        return MultimodalLM({"image": tower.build()}, {"image": connector.build(tower.width, text.width)},
                            text.build(), {"image": PAD}, inputs=inputs, prepare_inputs=TurnRoutes())  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        height, width = sides(tower.image_size)
        squashed = Squash(height=height, width=width, mean=CLIP_MEAN, std=CLIP_STD)
        picture = Modality(
            name="image", placeholder="<unk>", transform=squashed,
            tokens=SameCount(connector.tokens(tower.tokens)), collate=StackedAs("images"),
            after=(TEXT_START,))  # fmt: skip
        processor = Processor(tokenizer=files.tokenizer(pad="<unk>"), template=Turns(), modalities=(picture,),
                              max_length=MEMORY, rewrite=written_out, finish=finish)  # fmt: skip
        return LoadedModel(model=module, processor=processor, ground=grounded, next_turn=followed)

    return ModelSpec(build=build, keys=(sat_keys(tower, text),), parts=drawing(tower, connector, text),
                     assemble=assemble, ends=((END,), PAD))  # fmt: skip


def infer(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of a file that comes alone; heads are 128 wide, those of the encoder 112, as in all released sizes.

    CogVLM's files of this library have the same names and shapes.
    """
    tower = "mixins.eva.vit_model."
    wanted = ("transformer.word_embeddings", "mixins.mlp.vision_gate_proj.0", f"{tower}transformer.word_embeddings",
              f"{tower}transformer.position_embeddings", f"{tower}transformer.layers.0.mlp.dense_h_to_4h",
              f"{tower}mixins.patch_embedding.proj")  # fmt: skip
    found = [shapes.get(f"{name}.weight") for name in wanted]
    if not all(found):
        return None
    words, expert, begin, places, inner, patch = (tuple(each or ()) for each in found)
    side = math.isqrt(places[0] - 1) * patch[-1]
    eva = {"num_layers": _layers(shapes, tower), "hidden_size": begin[1], "num_attention_heads": begin[1] // 112,
           "inner_hidden_size": inner[0], "image_size": [side, side], "patch_size": patch[-1],
           "in_channels": patch[1]}  # fmt: skip
    return {"model_class": CLASS, "vocab_size": words[0], "hidden_size": words[1], "num_layers": _layers(shapes, ""),
            "num_attention_heads": words[1] // 128, "inner_hidden_size": expert[0], "eva_args": eva}  # fmt: skip


def _layers(shapes: Mapping[str, Sequence[int]], prefix: str) -> int:
    start, end = f"{prefix}transformer.layers.", ".input_layernorm.weight"
    return sum(name.startswith(start) and name.endswith(end) for name in shapes)
