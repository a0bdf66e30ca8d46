"""SPHINX's files in LLaMA2-Accessory's layout, its conversations and its boxes; see the package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from polymodal.backbones import llama_meta
from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints import qformer_lm
from polymodal.connectors import qformer
from polymodal.connectors.asked_and_mixed import AskedAndMixedConfig
from polymodal.data.coordinates import CoordinateText
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Image, Text
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.data.transforms import PadToSquare
from polymodal.encoders import clip_vit, convnext, dinov2, eva_vit
from polymodal.encoders.light_views import LightViewsConfig
from polymodal.encoders.mixed_views import MixedViewsConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.norm import LayerNormConfig
from polymodal.pipelines.grounding import Grounding, Thing
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.operations import Reshape
from polymodal.weights.parallel_shards import parallel_shards

CLASSES = {"llama_ens": (False, False), "llama_ens5": (False, True), "llama_ens_light": (True, False),
           "llama_ens5_light": (True, True)}  # fmt: skip
"""By the name of their class: whether it has two encoders alone, whether it looks at the quarters of a picture too."""
ENTRY = ("model", "")
CONTEXT = 4096  # tokens of a conversation with its picture, as the published loader allows
SYSTEM_WORDS = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions."
)
STOP = "\n###"
TEMPLATE = Template(
    begin=(Special(name="<s>"),),
    turns={
        "system": Turn(after=(Words(text="\n\n###"),)),
        "user": Turn(before=(Words(text=" Human: "),), after=(Words(text=STOP),)),
        # The space is learned: LLaMA's tokenizer makes it a part of the answer's first word.
        "assistant": Turn(before=(Words(text=" Assistant:"), Words(text=" ", loss_mask=True)),
                          after=(Words(text=STOP, loss_mask=True),), loss_mask=True),
    },
    ask=(Words(text=" Assistant:"),),
    end=(Special(name="</s>"),),
)  # fmt: skip
PLACES = CoordinateText()
_GROUP = r"\[[\d.,;\s]*\]"
_NAMED = re.compile(rf"(?:<p>(.*?)</p>\s*)?({_GROUP})")
_CUT = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1, "tok_embeddings": 1}


def cut_along(name: str) -> int | None:
    """The dimension that a tensor was cut along for tensor parallelism, None for one that is whole in each file."""
    language = re.fullmatch(r"llma\.(?:layers\.\d+\.\w+\.)?(\w+)\.weight", name)
    return _CUT.get(language[1]) if language else None


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """The tensors of all shards as whole ones."""
    return parallel_shards(files.folder, "consolidated.*.pth", ENTRY, cut_along)


def picture_first(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The picture in front of the system message, which is the published one where none is given.

    Raises PromptError for more than one picture, or turns out of order.
    """
    media = [part for message in messages for part in message.media]
    for each in media:
        if not isinstance(each, Image):
            raise PromptError(f"messages: this model takes text, image; found {each.modality or 'another medium'}")
    if len(media) > 1:
        raise PromptError(f"sphinx takes one picture a conversation; found {len(media)}")
    given = messages[0].text if messages[0].role == "system" else SYSTEM_WORDS
    talk = messages[1:] if messages[0].role == "system" else messages
    if any(message.role != ("user", "assistant")[i % 2] for i, message in enumerate(talk)):
        raise PromptError("sphinx: expected user and assistant in turn, the user first")
    first = Message(role="system", parts=(*media, Text(given)))
    return (first, *(Message(role=each.role, parts=(Text(each.text),)) for each in talk))


def grounded(answer: str, pictures: Sequence[Any]) -> Grounding:
    """An answer without marks and boxes, and the boxes with the phrases that are marked as theirs."""
    things: list[Thing] = []
    for found in _NAMED.finditer(answer) if pictures else ():
        boxes = [box for group in PLACES.read(re.sub(r"\s", "", found[2]), pictures[-1].picture.size) for box in group]
        things += [Thing(label=found[1] or "", box=(left, top, right, bottom)) for left, top, right, bottom in boxes]
    plain = re.sub(rf"\s*{_GROUP}", "", answer)
    return Grounding(text=re.sub("</?p>", "", plain), things=tuple(things))


def views_of(config: Mapping[str, Any]) -> MixedViewsConfig | LightViewsConfig:
    """The encoders.  `vision_config`, which no published file has, names sizes where they are others."""
    sizes = dict(config.get("vision_config") or {})
    light, quarters = CLASSES[config["llama_type"]]
    trunk = convnext.ConvNeXtConfig(**{"image_size": 512 if light else 256, **(sizes.get("convnext") or {})})
    dino = dinov2.dinov2(**sizes["dinov2"], gated=True) if sizes.get("dinov2") else dinov2.VIT_G_14
    if light:
        return LightViewsConfig(convnext=trunk, dino=dino, quarters=quarters)
    quick = "quick_gelu" if config.get("quick_gelu", True) else "gelu"
    clip = {"width": 1024, "depth": 24, "patch_size": 14, "activation": quick, **(sizes.get("clip") or {})}
    tower = replace(clip_vit.clip_vit(**clip), head=None, final_norm=LayerNormConfig())
    asked = eva_vit.parse_config(sizes.get("qformer_vision") or {})
    return MixedViewsConfig(asked=asked, clip=tower, convnext=trunk, dino=dino, quarters=quarters)


def vision_keys(asked: qformer.QFormerConfig | None) -> KeyTable:
    """Names below `llma.` -> encoder and connector; what the libraries' whole models hold besides is dropped.

    asked: the Q-Former, None for a model of two encoders.
    """
    keys = (
        convnext.timm_keys().prefixed("openclip_convnext_xxl.", "encoders.image.convnext.")
        + dinov2.official_keys(gated=True).prefixed("dinov2_vitg14.", "encoders.image.dino.")
        + projection("visual_proj", "mixed")
    )
    if asked is None:
        return keys
    left_of_clip = ("positional_embedding", "text_projection", "logit_scale", "token_embedding.weight", "ln_final.**")
    clip = KeyTable((*(rename(f"visual.ln_post.{leaf}", f"final_norm.{leaf}") for leaf in ("weight", "bias")),
                     *(drop(name) for name in left_of_clip))) + clip_vit.OPENAI_FEATURE_KEYS  # fmt: skip
    blip = (
        eva_vit.HF_KEYS.prefixed("vision_model.", "encoders.image.asked.")
        + qformer_lm.QUERIES.prefixed("", "connectors.image.qformer.")
        + qformer.hf_keys(asked).prefixed("qformer.", "connectors.image.qformer.")
    )
    return (
        keys
        + blip.prefixed("qformer.")
        + clip.prefixed("clip.", "encoders.image.clip.")
        + projection("qformer_proj", "asked")
    )


def projection(theirs: str, ours: str) -> KeyTable:
    """A linear and its norm."""
    linears = (qformer_lm.linear(f"{theirs}.{index}", f"connectors.image.{ours}_{name}")
               for index, name in enumerate(("proj", "norm")))  # fmt: skip
    return next(linears) + next(linears)


def marker_keys(width: int) -> KeyTable:
    flat = Reshape((1, 1, width), (width,))
    return KeyTable(tuple(rename(f"{name}_img", f"connectors.image.{name}", flat) for name in ("start", "end")))


def text_of(config: Mapping[str, Any]) -> DecoderConfig:
    """LLaMA by Meta's words; the vocabulary is that of its tokenizer where the file leaves it to that."""
    words = config.get("vocab_size", -1)
    if config.get("rope_scaling"):
        raise ConfigError(f"sphinx: rope_scaling: expected none, found {config['rope_scaling']}")
    params = {**config, "vocab_size": 32000 if words == -1 else words, "max_seq_len": CONTEXT}
    return llama_meta.shape_of(params).config()


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """config.json with the `llama_type` of meta.json -> the model.  Raises ConfigError for another class."""
    kind = config.get("llama_type")
    if kind not in CLASSES:
        raise ConfigError(f"sphinx: llama_type: expected {' or '.join(CLASSES)}, found {str(kind)[:40]!r}")
    views, text = views_of(config), text_of(config)
    asked = None
    if isinstance(views, MixedViewsConfig):
        sizes = (config.get("vision_config") or {}).get("qformer") or {}
        asked = qformer.parse_config(sizes, queries=sizes.get("num_query_tokens", 32), source_width=views.asked.width)
    connector = AskedAndMixedConfig(qformer=asked, mixed_width=views.width, out_width=text.width)
    tokens = connector.tokens(views.tokens, views.views)

    def build() -> MultimodalLM:
        return MultimodalLM({"image": views.build()}, {"image": connector.build()}, text.build(),
                            {"image": text.vocab_size})  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        picture = Modality(name="image", placeholder="", placeholder_id=text.vocab_size, tokens=SameCount(tokens),
                           transform=PadToSquare(size=views.image_size), after=(TEXT_START,))  # fmt: skip
        processor = Processor(tokenizer=files.tokenizer(), template=TEMPLATE, modalities=(picture,),
                              max_length=CONTEXT, rewrite=picture_first)  # fmt: skip
        return LoadedModel(model=module, processor=processor, ground=grounded, stop=(STOP,))

    keys = (vision_keys(asked) + marker_keys(text.width)).prefixed("llma.")
    keys += llama_meta.meta_keys(text).prefixed("llma.", "backbone.")
    return ModelSpec(build=build, keys=(keys,), parts=drawing(views, tokens, text), assemble=assemble, ends=((2,), 0))


def drawing(views: MixedViewsConfig | LightViewsConfig, tokens: int, text: DecoderConfig) -> tuple[Part, ...]:
    side, count, whole = views.image_size, views.views, isinstance(views, MixedViewsConfig)
    seen = f"[N, {count}, {views.tokens}, {views.width}]"
    if isinstance(views, MixedViewsConfig):
        seen = f"[N, {count}, {views.asked.tokens}, {views.asked.width}], {seen}"
    encoders = ("EVA ViT-g, CLIP ViT-L, " if whole else "") + "ConvNeXt-XXL, DINOv2-g"
    joined = "Q-Former and mixed features, two linears, markers" if whole else "linear, markers"
    return (
        Part(slot="encoder", modality="image", name=encoders, prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=count * views.tokens),
        Part(slot="connector", modality="image", name=joined, prefix="connectors.image", input=seen,
             output=f"[N, {tokens}, {text.width}]", tokens=tokens),
        Part(slot="backbone", name="LLaMA 2" if whole else "TinyLlama", prefix="backbone",
             input=f"[B, T, {text.width}]", output=f"[B, T, {text.vocab_size}]"),
    )  # fmt: skip
