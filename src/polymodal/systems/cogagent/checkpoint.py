"""What CogAgent adds to CogVLM, and how its prompts are written; see the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints.cog_boxes import grounded
from polymodal.checkpoints.visual_expert import TEMPLATE, TEXT, expert_keys, finish, rounds_of, with_expert
from polymodal.connectors.added_positions import AddedPositionsConfig
from polymodal.connectors.glu import GLUConnectorConfig, cogvlm_keys
from polymodal.data.item_rules import SameCount, StackedAs
from polymodal.data.media import Image, Text
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START
from polymodal.data.transforms import CLIP_MEAN, CLIP_STD, Squash
from polymodal.encoders import eva02_vit, eva2_clip
from polymodal.encoders.vit import ViTConfig, sides
from polymodal.errors import ConfigError
from polymodal.fusion.cross_attention import CrossAttentionConfig
from polymodal.fusion.routing import ExpertRoutes
from polymodal.fusion.visibility import RowPictures
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part, Repository, Variant
from polymodal.weights.keytable import KeyTable, rename, split

FORMS = {  # of earlier rounds and of the question
    "base": ("", "{}"),
    "chat": ("{} [/INST] {} [INST] ", " [INST] {history}{} [/INST] "),
    "chat_old": ("{} Answer: {}\nQuestion: ", "Question: {history}{} Answer:"),
    "vqa": ("", "Question: {} Short answer:"),
}
"""By `template_version`.  The hub's code leaves "<EOI>" in front of the last two, where training puts the picture."""


def written_out(messages: Sequence[Message], version: str) -> tuple[Message, ...]:
    """The published prompt: the picture at both sizes, then all rounds as one text.

    Raises PromptError as `rounds_of`.
    """
    pictures, rounds, question, rest = rounds_of(messages, "cogagent")
    earlier, whole = FORMS[version]
    history = "".join(earlier.format(asked, said) for asked, said in rounds)
    large = [replace(picture, source=picture.picture, modality="detail") for picture in pictures]
    return (Message(role="user", parts=(*pictures, *large, Text(whole.format(question, history=history)))), *rest)


def with_large_picture(config: DecoderConfig, source: int, width: int) -> DecoderConfig:
    """Cross-attention of inner width `width` to features of width `source`, between the two steps of every block."""
    blocks = []
    for block in config.blocks:
        heads = block.attention.heads
        attention = AttentionConfig(width=config.width, heads=heads, head_dim=width // heads, source_width=source)
        cross = CrossAttentionConfig(attention=attention, norm=block.norm)
        blocks.append(replace(block, cross=cross, cross_at="middle"))
    return replace(config, blocks=tuple(blocks))


def keys_of(tower: ViTConfig, text: DecoderConfig) -> KeyTable:
    """The published names -> ours."""
    cross = "model.layers.{}.cross_attn"
    looks = KeyTable(
        (
            rename(f"{cross}.query.weight", "blocks.{}.cross.attn.q_proj.weight"),
            split(f"{cross}.key_value.weight", [f"blocks.{{}}.cross.attn.{part}_proj.weight" for part in "kv"]),
            rename(f"{cross}.dense.weight", "blocks.{}.cross.attn.o_proj.weight"),
            rename("model.layers.{}.post_cross_attention_layernorm.weight", "blocks.{}.cross.norm.weight"),
        )
    )
    positions = (
        rename("model.vision.pos_embed", "connectors.image.positions.table"),
        rename("model.cross_vision.pos_embed", "connectors.detail.table"),
    )
    return (
        KeyTable(positions)
        + eva2_clip.hf_keys(tower).prefixed("model.vision.", "encoders.image.")
        + cogvlm_keys(text.width).prefixed("model.vision.", "connectors.image.")
        + eva02_vit.eva_keys().prefixed("model.cross_vision.vit.model.", "encoders.detail.")
        + (looks + expert_keys(text)).prefixed("", "backbone.")
    )


def large_tower(config: Mapping[str, Any], heads: int) -> ViTConfig:
    """The encoder of the large picture.  Raises ConfigError for widths that the published code cannot run."""
    width, inner = config.get("cross_hidden_size", 1024), config.get("cross_compute_hidden_size", 1024)
    if inner != width or inner % heads:
        raise ConfigError(f"cogagent: expected cross_compute_hidden_size to equal cross_hidden_size {width} and to be "
                          f"a multiple of num_attention_heads {heads}, found {inner}")  # fmt: skip
    given = {"hidden_size": width, "image_size": config.get("cross_image_size", 1120)}
    large = eva02_vit.parse_config(given | dict(config.get("cross_vision_config") or {}))
    if large.width != width:
        raise ConfigError(f"cogagent: expected a cross_vision_config of hidden_size {width}, found {large.width}")
    return large


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A CogAgentConfig dict -> the model.  `cross_vision_config`, by vLLM's words, may say more of the large encoder.

    Raises ConfigError for options that are not supported.
    """
    version = config.get("template_version", "chat")
    if version not in FORMS:
        raise ConfigError(f"cogagent: expected template_version {', '.join(FORMS)}, found {version!r}")
    tower = eva2_clip.parse_config({"image_size": 224, **(config.get("vision_config") or {})})
    text = with_expert(llama.parse_config({name: config[name] for name in TEXT if name in config}))
    large = large_tower(config, text.blocks[0].attention.heads)
    text = with_large_picture(text, large.width, large.width)
    connector = GLUConnectorConfig(ffn_width=config.get("intermediate_size", 11008), positions=tower.tokens)
    inputs = {"image": ModalityInputs(values="images", placeholder_mask="image_mask"),
              "detail": ModalityInputs(values="cross_images")}  # fmt: skip

    def build() -> MultimodalLM:
        connectors = {"image": connector.build(tower.width, text.width),
                      "detail": AddedPositionsConfig(count=large.tokens).build(large.width)}  # fmt: skip
        return MultimodalLM({"image": tower.build(), "detail": large.build()}, connectors, text.build(), {"image": 0},
                            context=RowPictures("detail", beside="image", mask="image_mask"), inputs=inputs,
                            prepare_inputs=ExpertRoutes())  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        small, whole = (
            Squash(height=height, width=width, mean=CLIP_MEAN, std=CLIP_STD)
            for height, width in (sides(tower.image_size), sides(large.image_size))
        )
        picture = Modality(
            name="image", placeholder="<unk>", transform=small, tokens=SameCount(connector.tokens(tower.tokens)),
            collate=StackedAs("images"), after=(TEXT_START,), ahead=True)  # fmt: skip
        detail = Modality(
            name="detail", media=Image, placeholder="<unk>", placeholder_id=-1, transform=whole, tokens=SameCount(0),
            collate=StackedAs("cross_images"), after=(TEXT_START,), ahead=True)  # fmt: skip
        processor = Processor(
            tokenizer=files.tokenizer(pad="<unk>"), template=TEMPLATE, modalities=(picture, detail),
            max_length=text.max_length, rewrite=partial(written_out, version=version), finish=finish)  # fmt: skip
        return LoadedModel(model=module, processor=processor, ground=grounded)

    return ModelSpec(build=build, keys=(keys_of(tower, text),), parts=drawing(tower, large, text), assemble=assemble)


def drawing(tower: ViTConfig, large: ViTConfig, text: DecoderConfig) -> tuple[Part, ...]:
    side, whole = tower.image_size, large.image_size
    seen, detail = f"[N, {tower.tokens}, {tower.width}]", f"[N, {large.tokens}, {large.width}]"
    return (
        Part(slot="encoder", modality="image", name="EVA2-CLIP-E", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="encoder", modality="detail", name="EVA02-CLIP-L", prefix="encoders.detail",
             input=f"[N, 3, {whole}, {whole}]", output=detail, tokens=large.tokens),
        Part(slot="connector", modality="image", name="positions, gated MLP, two markers", prefix="connectors.image",
             input=seen, output=f"[N, {tower.tokens + 2}, {text.width}]", tokens=tower.tokens + 2),
        Part(slot="connector", modality="detail", name="positions", prefix="connectors.detail", input=detail,
             output=detail, tokens=large.tokens),
        Part(slot="backbone", name="Vicuna with a visual expert and cross-attention in every layer",
             prefix="backbone", input=f"[B, T, {text.width}]", output=f"[B, T, {text.vocab_size}]"),
    )  # fmt: skip


def variant(name: str, hub: str, template: str) -> Variant:
    """A released checkpoint with its config.json."""
    vision = {"dropout_prob": 0.0, "hidden_act": "gelu", "in_channels": 3, "num_hidden_layers": 63, "hidden_size": 1792,
              "patch_size": 14, "num_heads": 16, "intermediate_size": 15360, "layer_norm_eps": 1e-6,
              "num_positions": 257, "image_size": 224}  # fmt: skip
    config = {"architectures": ["CogAgentForCausalLM"], "vocab_size": 32000, "hidden_size": 4096,
              "cross_hidden_size": 1024, "cross_compute_hidden_size": 1024, "cross_image_size": 1120,
              "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_act": "silu",
              "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "template_version": template, "pad_token_id": 0,
              "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "vision_config": vision}  # fmt: skip
    repository = Repository(name=f"THUDM/{hub}", license="CogAgent License")
    return Variant(name=name, parameters=18_291_033_280, config=config, repository=repository)
