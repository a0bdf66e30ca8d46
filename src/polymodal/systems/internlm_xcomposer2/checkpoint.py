"""Published checkpoints of InternLM-XComposer2: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from polymodal.backbones import internlm2
from polymodal.backbones.decoder import Decoder, DecoderConfig
from polymodal.connectors.mlp import MLPConnectorConfig
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.data.transforms import CLIP_MEAN, CLIP_STD, Squash
from polymodal.encoders import clip_vit
from polymodal.fusion.routing import PlaceholderRoutes, RoutedDeltaConfig
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.attention import AttentionLinears
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Variant,
)
from polymodal.weights.keytable import KeyTable, drop, rename, split

CLASS = "InternLMXComposer2ForCausalLM"
RANK = 256  # and alpha, so that the path is not scaled; fixed in published code
HERE, BEGIN, END = "<ImageHere>", "[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]"
CLIP_L: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                          "intermediate_size": 4096, "patch_size": 14}  # fmt: skip


def _turn(role: str) -> Turn:
    answer = role == "assistant"
    before = (Special(name=BEGIN), Words(text=f"{role}\n"))
    return Turn(before=before, after=(Special(name=END, loss_mask=answer), Words(text="\n")), loss_mask=answer)


TEMPLATE = Template(
    begin=(Special(name="<s>"), TEXT_START),
    turns={role: _turn(role) for role in ("system", "user", "assistant")},
    ask=_turn("assistant").before,
    end=(Special(name="</s>", loss_mask=True),),
)


def with_partial_lora(config: DecoderConfig) -> DecoderConfig:
    """Every linear of every block with a low-rank path for pictures."""
    routed = RoutedDeltaConfig(rank=RANK)
    linears, blocks = AttentionLinears(q=routed, k=routed, v=routed, o=routed), []
    for block in config.blocks:
        assert isinstance(block.mlp, GatedMLPConfig)
        blocks.append(replace(block, attention=replace(block.attention, linears=linears),
                              mlp=replace(block.mlp, linear=routed)))  # fmt: skip
    return replace(config, blocks=tuple(blocks))


def built(config: DecoderConfig) -> Decoder:
    """The decoder, in which key and value use the query's A."""
    decoder = config.build()
    for block in decoder.blocks:
        attention: Any = block.attn
        attention.k_proj.lora_A = attention.v_proj.lora_A = attention.q_proj.lora_A
    return decoder


def plora_keys(config: DecoderConfig) -> KeyTable:
    """The published low-rank names -> ours; both matrices of one linear."""
    attention = config.blocks[0].attention
    groups, rows = attention.key_heads, attention.size
    sizes = (attention.heads * rows, groups * rows, groups * rows)
    layer, block = "model.layers.{}", "blocks.{}"
    pairs = {"attention.wo": "attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w3": "mlp.up_proj",
             "feed_forward.w2": "mlp.down_proj"}  # fmt: skip
    shared = {
        f"blocks.{i}.attn.{name}_proj.lora_A.weight": f"blocks.{i}.attn.q_proj.lora_A.weight"
        for i in range(config.depth)
        for name in "kv"
    }
    return KeyTable.of(
        {},
        *(
            rename(f"{layer}.{a}.Plora_{m}.weight", f"{block}.{b}.lora_{m}.weight")
            for a, b in pairs.items()
            for m in "AB"
        ),
        rename(f"{layer}.attention.wqkv.Plora_A.weight", f"{block}.attn.q_proj.lora_A.weight"),
        split(f"{layer}.attention.wqkv.Plora_B.weight", [f"{block}.attn.{n}_proj.lora_B.weight" for n in "qkv"],
              sizes=sizes, groups=groups),
        tied=shared,
    )  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An InternLMXcomposer2Config dict -> the model.  `vision_config`, of our own: sizes other than CLIP ViT-L/14's."""
    side = config["img_size"]
    vision = {**CLIP_L, **(config.get("vision_config") or {}), "image_size": side}
    tower = replace(clip_vit.parse_config(vision), keep_class=False, head=None)
    text = with_partial_lora(internlm2.parse_config(config))
    connector, placeholder = MLPConnectorConfig(), text.vocab_size

    def build() -> MultimodalLM:
        parts = tower.build(), connector.build(tower.width, text.width), built(text)
        return MultimodalLM({"image": parts[0]}, {"image": parts[1]}, parts[2], {"image": placeholder},
                            prepare_inputs=PlaceholderRoutes(placeholder), positions_ignore_padding=True)  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        picture = Modality(
            name="image", placeholder=HERE, placeholder_id=placeholder, tokens=SameCount(tower.tokens),
            transform=Squash(height=side, width=side, mean=CLIP_MEAN, std=CLIP_STD), after=(TEXT_START,),
            )  # fmt: skip
        tokenizer = files.tokenizer(control=(BEGIN, END), eos=END)
        processor = Processor(tokenizer=tokenizer, template=TEMPLATE, modalities=(picture,), max_length=text.max_length)
        return LoadedModel(model=module, processor=processor)

    tail = KeyTable((drop("vit.vision_tower.vision_model.embeddings.position_ids"),))
    projector = KeyTable.of({f"{a}.{leaf}": f"layers.{b}.{leaf}" for a, b in ((0, 0), (2, 1))
                             for leaf in ("weight", "bias")})  # fmt: skip
    keys = (
        tail
        + clip_vit.hf_keys(tower).prefixed("vit.vision_tower.", "encoders.image.")
        + projector.prefixed("vision_proj.", "connectors.image.")
        + (plora_keys(text) + internlm2.hf_keys(text)).prefixed("", "backbone.")
    )
    seen = f"[N, {tower.tokens}, {tower.width}]"
    parts = (
        Part(slot="encoder", modality="image", name="CLIP ViT-L/14", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="connector", modality="image", name="two linears", prefix="connectors.image", input=seen,
             output=f"[N, {tower.tokens}, {text.width}]", tokens=tower.tokens),
        Part(slot="backbone", name="InternLM2 with Partial LoRA", prefix="backbone",
             input=f"[B, T, {text.width}]", output="[B, T, V]"),
    )  # fmt: skip
    return ModelSpec(build=build, keys=(keys,), parts=parts, assemble=assemble)


def variant(name: str, hub: str, side: int) -> Variant:
    """A released checkpoint of 7B; the sizes differ by the table of positions."""
    config = {"model_type": "internlm2", "architectures": [CLASS], "vocab_size": 92544, "hidden_size": 4096,
              "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
              "rms_norm_eps": 1e-5, "max_position_embeddings": 32768, "rope_theta": 1000000, "bias": False,
              "img_size": side}  # fmt: skip
    count = 8_666_840_064 - (1226 - (side // 14) ** 2 - 1) * 1024
    return Variant(name=name, parameters=count, config=config,
                   repository=Repository(name=f"internlm/{hub}", license="free for research"))  # fmt: skip
