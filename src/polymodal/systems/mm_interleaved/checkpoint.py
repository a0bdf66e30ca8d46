"""Published checkpoints of MM-Interleaved: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.connectors import map_qformer
from polymodal.connectors.map_qformer import MapQFormerConfig
from polymodal.connectors.qformer import QFormerConfig
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Segment, Slot, Special, Words
from polymodal.data.transforms import HalvedCrop
from polymodal.encoders import clip_vit, vit_adapter
from polymodal.encoders.vit_adapter import ViTAdapterConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion import synchronizer
from polymodal.fusion.synchronizer import FeatureSynchronizerConfig
from polymodal.models.synchronized_lm import Marks, PicturesBefore, SynchronizedLM, extended
from polymodal.nn.norm import RMSNormConfig
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.operations import Reshape

MARK, IMAGE = "<|beginofimage|>", "<|image|>"  # in the order in which they were added
FIRST, LAST = "<s>", "</s>"
NEW = 2
IDS = {"bos_token_id": 1, "eos_token_id": 2, "soi_token_id": 32000, "image_token_id": 32001}
UNNAMED = "a photo of"  # behind a picture without a word, as the published captions are asked for


class Documents:
    """Texts and pictures as they come; a finished conversation ends in the end token.

    Words are stripped where they meet a picture and are tokenised as texts of their own, as the published tokenizer
    does around special tokens; between two texts is one space.
    """

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Segments of a conversation.  Raises PromptError for no message, or for nothing in them."""
        parts = [(part, message.role == "assistant") for message in messages for part in message.parts]
        parts = [(part, learned) for part, learned in parts if not isinstance(part, Text) or part.text.strip()]
        if not parts:
            raise PromptError("messages: expected a text or a picture, found none")
        if ask and not any(isinstance(part, Text) for part, _ in parts):
            parts.append((Text(UNNAMED), False))
        made: list[Segment] = [Special(name=FIRST)]
        written = False
        for part, learned in parts:
            if isinstance(part, Text):
                made.append(TEXT_START if not written else Words(text=" ", loss_mask=learned))
                made.append(Words(text=part.text.strip(), loss_mask=learned))
            else:
                made += [Special(name=MARK, loss_mask=learned), Slot(media=part)]
            written = isinstance(part, Text)
        return (*made, *(() if ask else (Special(name=LAST, loss_mask=parts[-1][1]),)))


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as `published` writes it -> the model, at any size.  Raises ConfigError."""
    vision, tokens = encoder_of(config), {**IDS, **(config.get("special_token_dict") or {})}
    decoder, connector, painter = backbone_of(config), connector_of(config), painter_of(config)
    marks = Marks(begin=tokens["bos_token_id"], mark=tokens["soi_token_id"], image=tokens["image_token_id"])
    queries, sides = connector.qformer.queries, connector.sides

    def build() -> SynchronizedLM:
        context = PicturesBefore(marks, queries=queries, sides=sides, width=vision.vit.width)
        return SynchronizedLM(
            vision.build(), connector.build(), extended(decoder.build(), NEW), context, painter,
            sines=config.get("seq_len", 2048),
        )  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side: Any = vision.vit.image_size
        words = files.tokenizer(added=(MARK, IMAGE), eos=LAST)
        for name, index in ((MARK, marks.mark), (IMAGE, marks.image)):
            if words.special(name) != index:
                raise ConfigError(f"mm-interleaved: {name} is token {words.special(name)}, expected {index}; "
                                  "say special_token_dict in config.json")  # fmt: skip
        image = Modality(name="image", placeholder=IMAGE, transform=HalvedCrop(size=side), tokens=SameCount(queries))
        processor = Processor(tokenizer=words, template=Documents(), modalities=(image,), max_length=decoder.max_length)
        return LoadedModel(model=module, processor=processor)

    keys = keys_of(config, connector.qformer, painter, decoder)
    ends = ((tokens["eos_token_id"], marks.mark), tokens.get("pad_token_id"))  # a mark asks for a picture
    parts = drawing(vision, decoder, connector, painter)
    return ModelSpec(build=build, keys=(keys,), parts=parts, assemble=assemble, ends=ends)


def encoder_of(config: Mapping[str, Any]) -> ViTAdapterConfig:
    """CLIP with the adapter; `adapter_inplanes` is no word of the official config, 64 is fixed in the code."""
    given = config["vision_config"]
    vit = replace(clip_vit.parse_config(given), head=None)
    return ViTAdapterConfig(vit=vit, heads=given["num_attention_heads"], inner=config.get("adapter_inplanes", 64))


def backbone_of(config: Mapping[str, Any]) -> DecoderConfig:
    """LLaMA with synchronisers in every `cross_attention_frequency`-th block from the first."""
    text = {**config["text_config"], "vocab_size": config.get("txt_vocab_size", 32002), "tie_word_embeddings": False}
    whole, every = llama.parse_config(text), config.get("cross_attention_frequency", 4)
    width = config["vision_config"]["hidden_size"]
    sync = FeatureSynchronizerConfig(
        width=whole.width, source_width=width, sides=sides_of(config), norm=RMSNormConfig(eps=text["rms_norm_eps"])
    )
    blocks = tuple(
        block if index % every else replace(block, cross=sync, cross_at="middle")
        for index, block in enumerate(whole.blocks)
    )
    return replace(whole, blocks=blocks, head_bias=True)


def sides_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Sides of the maps that the language model sees."""
    return tuple(config.get("spatial_shapes", (32, 16, 8)))


def connector_of(config: Mapping[str, Any]) -> MapQFormerConfig:
    """The Q-Former of `visual_tokenizer_config`."""
    given, width = config["visual_tokenizer_config"], config["text_config"]["hidden_size"]
    sizes = resampler_of(given["perceiver_config"], qk_norm=given["perceiver_config"].get("qk_normalization", False))
    return MapQFormerConfig(qformer=sizes, out_width=width, grid=given.get("grid_size", 16), sides=sides_of(config))


def painter_of(config: Mapping[str, Any]) -> QFormerConfig:
    """The Q-Former of `image_decoder_config`, 77 queries of Stable Diffusion's width."""
    return resampler_of(config["image_decoder_config"]["perceiver_config"])


def resampler_of(given: Mapping[str, Any], qk_norm: bool = False) -> QFormerConfig:
    """A `perceiver_config` with the defaults of the library's Q-Former."""
    return QFormerConfig(
        width=given.get("hidden_size", 768),
        depth=given.get("num_hidden_layers", 12),
        heads=given.get("num_attention_heads", 12),
        ffn_width=given.get("intermediate_size", 3072),
        source_width=given.get("encoder_hidden_size", 1408),
        queries=given.get("num_queries", 32),
        cross_every=given.get("cross_attention_frequency", 2),
        qk_norm=qk_norm,
    )


def keys_of(
    config: Mapping[str, Any], connector: QFormerConfig, painter: QFormerConfig, decoder: DecoderConfig
) -> KeyTable:
    """The official module's names -> ours."""
    vision = config["vision_config"]["hidden_size"]
    vit = KeyTable(tuple(
        row.spelled(lambda name: name.removeprefix("vision_model.")) for row in clip_vit.HF_FEATURE_KEYS.rows
        if not row.sources[0].startswith("visual_projection")
    ))  # fmt: skip
    sync = synchronizer.OFFICIAL_KEYS + KeyTable(
        (rename("attn.ignore_token", "nothing", Reshape((1, 1, 1, vision), (vision,))),)
    )
    plain = KeyTable(tuple(row for row in llama.hf_keys(decoder).rows if row.sources[0] != "lm_head.weight"))
    language = KeyTable(tuple(row.spelled(lambda name: name.removeprefix("model.")) for row in plain.rows))
    head = [("head", "backbone.lm_head"), ("head_new", "backbone.lm_head.new")]
    rows = [rename(f"text_decoder.{a}.{leaf}", f"{b}.{leaf}") for a, b in head for leaf in ("weight", "bias")]
    rows += [rename(f"context_feat_proj.{leaf}", f"context_proj.{leaf}") for leaf in ("weight", "bias")]
    rows += [rename("soi_token", "mark"), rename("image_decoder.neg_prompt_embeds", "empty")]
    dropped = ("image_decoder.decoder.**", "visual_tokenizer.clip_mean", "visual_tokenizer.clip_std")
    return (
        KeyTable((*map(drop, dropped), *rows))
        + vit_adapter.official_keys(vit).prefixed("visual_tokenizer.encoder.vision_model.", "encoders.image.")
        + map_qformer.official_keys(connector).prefixed("visual_tokenizer.", "connectors.image.")
        + sync.prefixed("mm_decoder.layers.{}.llama_cross_attn.", "backbone.blocks.{}.cross.")
        + language.prefixed("mm_decoder.", "backbone.")
        + map_qformer.resampler_keys(painter).prefixed("image_decoder.perceiver_resampler.", "painter.")
    )


def drawing(
    vision: ViTAdapterConfig, decoder: DecoderConfig, connector: MapQFormerConfig, painter: QFormerConfig
) -> tuple[Part, ...]:
    """The boxes of `show`; the picture itself is made by a pipeline of the caller's (`generators/diffusion.py`)."""
    side: Any = vision.vit.image_size
    width, queries = vision.vit.width, connector.qformer.queries
    maps = ", ".join(f"{each} x {each}" for each in vision.sides)
    synced = sum(block.cross is not None for block in decoder.blocks)
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT with ViT-Adapter", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=f"[N, {vision.vit.tokens}, {width}], maps {maps}",
             tokens=vision.vit.tokens),
        Part(slot="connector", modality="image", name="Q-Former", prefix="connectors.image", tokens=queries,
             input=f"[N, {vision.vit.tokens}, {width}]", output=f"[N, {queries}, {decoder.width}] and maps"),
        Part(slot="backbone", name=f"LLaMA with {synced} feature synchronisers", prefix="backbone",
             input=f"[B, T, {decoder.width}], maps of all pictures", output=f"[B, T, {decoder.vocab_size}]"),
        Part(slot="output connector", modality="image", name="Q-Former of the condition", prefix="painter",
             input=f"[k, T, {decoder.width}], newest first", output=f"[k, {painter.queries}, {painter.width}]"),
        Part(slot="generator", modality="image", name="Stable Diffusion 2.1", prefix="",
             input=f"[k, {painter.queries}, {painter.width}]", output="image"),
    )  # fmt: skip


def published() -> dict[str, Any]:
    """The released model's configs in one: Vicuna-13B v1.3, CLIP ViT-L/14, configs/release/mm_pretrain.yaml."""
    text = {"model_type": "llama", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40,
            "intermediate_size": 13824, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}  # fmt: skip
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
              "image_size": 224, "patch_size": 14, "hidden_act": "quick_gelu"}  # fmt: skip
    seen = {"num_queries": 64, "hidden_size": 768, "encoder_hidden_size": 1024, "cross_attention_frequency": 2,
            "num_hidden_layers": 12, "num_attention_heads": 12, "qk_normalization": True}  # fmt: skip
    painted = {"num_queries": 77, "hidden_size": 1024, "encoder_hidden_size": 5120, "cross_attention_frequency": 1,
               "num_hidden_layers": 1, "num_attention_heads": 16}  # fmt: skip
    return {"model_type": "mm_interleaved", "text_config": text, "vision_config": vision, "txt_vocab_size": 32002,
            "cross_attention_frequency": 4, "spatial_shapes": [32, 16, 8], "seq_len": 2048,
            "visual_tokenizer_config": {"perceiver_config": seen},
            "image_decoder_config": {"perceiver_config": painted},
            "special_token_dict": {**IDS, "pad_token_id": 31999}}  # fmt: skip
