"""Published checkpoints of Emu: config to model, names of tensors, prompts, what draws.

    Emu-pretrain.pt, Emu-instruct.pt           or multimodal_encoder/pytorch_model.bin beside unet, vae, scheduler
    visual.* ln_visual.*   cformer.{causal_tokens, cformer.*, projection}   decoder.lm.*, its stu_regress_head

The official code has its sizes in Emu-14B.json, T5-base's and LLaMA-13B's configs; here they are vision_config,
causal_former, text_config, n_causal, and lora_r with lora_alpha for Emu-I.  special_ids: of [IMG], [/IMG] and <image>.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from polymodal.backbones import hf_text, t5
from polymodal.backbones.encoder_decoder import StackConfig
from polymodal.checkpoints.peft_lm import adapted_keys, build_adapted, wrapped_keys
from polymodal.checkpoints.stable_diffusion import StableDiffusion
from polymodal.data.hf_image import VIT, transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special
from polymodal.encoders import eva_vit
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.models.visual_regression_lm import CausalFormer, PictureMarks, VisualRegressionLM
from polymodal.nn.norm import LayerNormConfig
from polymodal.pipelines.imagined_painting import ImaginedPainter
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.emu.prompt import BEGIN, END, IMAGE, NEW, InstructFormat, PlainFormat
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.operations import Squeeze

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
PICTURE = {**VIT, "resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
T5_BASE = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
SEARCH = {"beams": 5, "length_penalty": 0.0, "max_tokens": 128}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as the module docstring has it, at any size.  Raises ConfigError for one without its tokens."""
    vit = replace(eva_vit.parse_config({"num_hidden_layers": 40, **(config.get("vision_config") or {})}, official=True),
                  final_norm=LayerNormConfig(eps=1e-6))  # fmt: skip
    text = hf_text.parse_config(config["text_config"])
    decoder: Any = text.config
    former, count = former_of(config, vit.width), int(config.get("n_causal", 32))
    size, rank = decoder.vocab_size, config.get("lora_r") or 0
    first = 32001 if size > 32003 else size - 3
    begin, end, image = config.get("special_ids") or (first, first + 1, first + 2)
    if not 0 <= max(begin, end, image) < size:
        raise ConfigError(f"emu: vocab_size {size}; [IMG], [/IMG] and <image> have ids {begin}, {end} and {image}")
    width = former.blocks[0].attention.width

    def build() -> VisualRegressionLM:
        backbone: Any = build_adapted(decoder, TARGETS, rank, config.get("lora_alpha", 16)) if rank else decoder.build()
        connector = CausalFormer(former, width=width, tokens=count, out_width=decoder.width)
        return VisualRegressionLM(vit.build(), connector, backbone, PictureMarks(begin=begin, image=image, end=end),
                                  count)  # fmt: skip

    finish = partial(assemble, side=vit.image_size, instructed=bool(rank), most=decoder.max_length)
    return ModelSpec(build=build, keys=keys_of(text, bool(rank)), parts=drawing(vit, decoder, count), assemble=finish)


def former_of(config: Mapping[str, Any], vision_width: int) -> StackConfig:
    """T5's decoder, which looks at the features of the encoder."""
    given = {**T5_BASE, **(config.get("causal_former") or {})}
    stack = t5.parse_config(given).decoder
    blocks = tuple(replace(each, cross=None if each.cross is None else replace(each.cross, source_width=vision_width))
                   for each in stack.blocks)  # fmt: skip
    return replace(stack, blocks=blocks)


def keys_of(text: hf_text.TextModel, adapted: bool) -> tuple[KeyTable, ...]:
    """One table for each spelling of the language model."""
    rows = [rename(f"ln_visual.{leaf}", f"encoders.image.final_norm.{leaf}") for leaf in ("weight", "bias")]
    rows += [rename(f"cformer.projection.{leaf}", f"connectors.image.proj.{leaf}") for leaf in ("weight", "bias")]
    rows.append(rename("cformer.causal_tokens", "connectors.image.tokens", Squeeze(0)))
    rows += [drop("visual.norm.**"), drop("visual.head.**"), drop("cformer.cformer.embed_tokens.weight")]
    former = KeyTable(tuple(row.spelled(lambda name: name.removeprefix("decoder.")) for row in t5.decoder_rows()))
    body = (
        KeyTable(tuple(rows))
        + eva_vit.OFFICIAL_KEYS.prefixed("visual.", "encoders.image.")
        + former.prefixed("cformer.cformer.", "connectors.image.stack.")
    )
    prefix = "decoder.lm.base_model.model." if adapted else "decoder.lm."
    body += KeyTable((rename(f"{prefix}stu_regress_head.weight", "regression.weight"),))
    tables = [adapted_keys(table, TARGETS) if adapted else table for table in text.keys]
    spellings = [each.prefixed(prefix, "backbone.") for each in tables]
    if adapted:
        spellings += [wrapped_keys(each, TARGETS) for each in spellings]
    return tuple(body + each for each in spellings)


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """The one file of weights, which lies in `multimodal_encoder` where the folder draws too."""
    inner = files.folder / "multimodal_encoder"
    return weights_in(inner if inner.is_dir() else files.folder, ("module", ""))


def assemble(
    module: nn.Module, files: CheckpointFiles, *, side: Any, instructed: bool, most: int | None
) -> LoadedModel:
    """Conversations and pictures, from a folder with LLaMA's tokenizer.  Raises ConfigError for another."""
    assert isinstance(module, VisualRegressionLM)
    words = files.tokenizer(added=NEW if instructed else NEW[:4])
    marks = module.marks
    for name, index in ((BEGIN, marks.begin), (END, marks.end), (IMAGE, marks.image)):
        if words.special(name) != index:
            raise ConfigError(f"emu: {name} is token {words.special(name)}, expected {index}; the vocabulary must be "
                              "that of LLaMA, which the new tokens follow")  # fmt: skip
    transform = transform_of(files.preprocessor, {**PICTURE, "size": {"height": side, "width": side}})
    picture = Modality(name="image", placeholder=IMAGE, transform=transform, tokens=SameCount(module.count),
                       before=(Special(name=BEGIN),), after=(Special(name=END),))  # fmt: skip
    plain = PlainFormat()
    processor = Processor(tokenizer=words, template=InstructFormat() if instructed else plain, modalities=(picture,),
                          max_length=most)  # fmt: skip

    def encode(parts: Sequence[Any]) -> Mapping[str, Any]:
        row = processor.fit(processor.encode_segments((*plain.written(parts), Special(name=BEGIN))))
        return processor.collate([row], padding="right")

    draws = not instructed and (files.folder / "unet").is_dir()
    painter = ImaginedPainter(model=module, encode=encode, pipeline=lambda: StableDiffusion(files.folder).pipeline())
    return LoadedModel(model=module, processor=processor, sampling=SEARCH, paint=painter if draws else None)


def drawing(vit: ViTConfig, decoder: Any, count: int) -> tuple[Part, ...]:
    """The boxes of `show`."""
    side, seen = vit.image_size, f"[N, {vit.tokens}, {vit.width}]"
    return (
        Part(slot="encoder", modality="image", name="EVA-CLIP ViT-g/14", prefix="encoders.image", tokens=vit.tokens,
             input=f"[N, 3, {side}, {side}]", output=seen),
        Part(slot="connector", modality="image", name=f"causal former of {count} tokens", prefix="connectors.image",
             input=seen, output=f"[N, {count}, {decoder.width}]", tokens=count),
        Part(slot="backbone", name="LLaMA", prefix="backbone", input=f"[B, T, {decoder.width}]",
             output=f"[B, T, {decoder.vocab_size}]"),
        Part(slot="output connector", modality="image", name="regression of the next vector", prefix="regression",
             input=f"[k, {decoder.width}]", output=f"[k, {count}, {decoder.width}]"),
        Part(slot="generator", modality="image", name="Stable Diffusion, tuned", prefix="",
             input=f"[k, {count}, {decoder.width}]", output="image"),
    )  # fmt: skip


def published(lora_r: int | None = None) -> dict[str, Any]:
    """Emu-14B.json with LLaMA-13B's and T5-base's sizes."""
    text = {"model_type": "llama", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40,
            "intermediate_size": 13824, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
            "vocab_size": 32006 if lora_r else 32004}  # fmt: skip
    return {"model_type": "emu", "text_config": text, "causal_former": T5_BASE, "n_causal": 32, "lora_r": lora_r}
