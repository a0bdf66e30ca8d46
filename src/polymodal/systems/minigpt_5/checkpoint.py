"""Published checkpoints of MiniGPT-5: config to model, names of tensors, the files that belong together.

    stage1_cc3m.ckpt, and of the second stage stage2_vist.ckpt or stage2_mmdialog.ckpt     what was trained
    MiniGPT-4's linear, BLIP-2's Q-Former, EVA's own file (.pth)    a folder of Vicuna    stable-diffusion-2-1-base

The config is MiniGPT-4's with `unet` (as of diffusers; Stable Diffusion 2.1's where it says nothing), num_clip_tokens,
and lora_r with lora_alpha for the second stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from polymodal.checkpoints import lavis, minigpt, stable_diffusion
from polymodal.checkpoints.peft_lm import LLAMA
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Words
from polymodal.errors import ConfigError, WeightsError
from polymodal.generators import unet, unet_keys
from polymodal.generators.diffusion import DiffusionSettings
from polymodal.generators.voken_mapper import VokenMapperConfig, official_keys
from polymodal.models.multimodal_lm import ModalityInputs
from polymodal.models.signal_token_lm import SignalTokenLM, SignalTokens
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.minigpt_5.prompt import VokenFormat
from polymodal.train.signal_objectives import SpokenPictures
from polymodal.train.signal_pairs import spoken_media
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, drop
from polymodal.weights.merged import Locations, MergedTensors, locations

VOKENS = 8
TARGETS = ("q_proj", "v_proj")
VICUNA_7B = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
             "intermediate_size": 11008, "vocab_size": 32009, "rms_norm_eps": 1e-6,
             "max_position_embeddings": 2048}  # fmt: skip
UNET_2_1: dict[str, Any] = {
    "block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024,
    "layers_per_block": 2, "sample_size": 64, "use_linear_projection": True,
}  # fmt: skip
DRAWN = {"image": DiffusionSettings(output_field="images", guidance=7.5, steps=50)}
SAMPLING = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 256}
SAVED = {f"{LLAMA}model.embed_tokens.": "backbone.embed_tokens.", f"{LLAMA}lm_head.": "backbone.lm_head."}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as the module docstring has it, at any size.  Raises ConfigError for a table without vokens."""
    if not config.get("has_qformer", True):
        raise ConfigError("minigpt5: has_qformer false is not supported; it is MiniGPT-4's Vicuna with the Q-Former")
    words = config["text_config"]["vocab_size"]
    whole = {"image_token_index": words - 1, **config}
    found = minigpt.parse_config(whole, TARGETS)
    described = {**UNET_2_1, **(config.get("unet") or {})}
    noise, width = unet.parse_config(described), found.text.config.width
    mapper = VokenMapperConfig(in_width=width, width=noise.context, queries=config.get("num_clip_tokens", 77))
    signal = tuple(range(words - VOKENS - 1, words - 1))

    def build() -> SignalTokenLM:
        parts = found.build()
        model = SignalTokenLM(
            {"image": parts.encoders["image"]},
            {"image": parts.connectors["image"]},
            parts.backbone,
            {"image": found.placeholder},
            {"image": ModalityInputs(values="pixel_values")},
            {"image": mapper.build()},
            SignalTokens(ids={"image": signal}, shift=1, forced=True, alone=True, guided=True, settings=DRAWN),
        )
        model.generators["image"] = noise.build()
        return model

    keys = tuple(keys_of(table, bool(found.rank), bool(described["use_linear_projection"])) for table in found.keys)
    parts = (*found.drawing("Vicuna"), *drawing(mapper, noise))
    return ModelSpec(build=build, keys=keys, parts=parts, assemble=partial(assemble, found=found))


def keys_of(table: KeyTable, adapted: bool, linear: bool) -> KeyTable:
    """MiniGPT-4's names below `model.`, where PEFT keeps a trained copy of the table and of the head; mapper, U-Net."""
    rows = []
    if adapted:
        table = KeyTable(tuple(row.spelled(_copied) for row in table.rows), table.new, table.tied)
        rows = [drop(f"model.{name}original_module.weight") for name in SAVED]
    rows += [drop("vae.**"), drop("sd_text_encoder.**")]
    return (
        KeyTable(tuple(rows))
        + table.prefixed("model.")
        + official_keys().prefixed("", "projectors.image.")
        + unet_keys.published_keys(linear).prefixed("unet.", "generators.image.")
    )


def _copied(name: str) -> str:
    saved = next((prefix for prefix in SAVED if name == f"{prefix}weight"), None)
    return name if saved is None else f"{saved}modules_to_save.default.weight"


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """One file of everything, or the published files with the folders of Vicuna and of Stable Diffusion."""
    stages = sorted(files.folder.glob("*.ckpt"))
    if not stages:
        return weights_in(files.folder, ("state_dict", ""))
    adapted = bool(files.json("config.json").get("lora_r"))
    if len(stages) != 1 + adapted:
        raise WeightsError(f"{files.folder}: expected {1 + adapted} .ckpt for "
                           f"{'the second stage (stage 1 first by name)' if adapted else 'the first stage'}, "
                           f"found {len(stages)}")  # fmt: skip
    place = stable_diffusion.find(files.folder)
    if place is None:
        raise WeightsError(f"{files.folder} holds no stable-diffusion-2-1-base, whose U-Net is a part of the model")
    base = lavis.gather(files, language="llama_model")
    found: Locations = {}
    for name in base:
        if adapted and name.startswith("llama_model."):
            if name.endswith(("embed_tokens.weight", "lm_head.weight")):
                continue  # of which the second stage has its own
            found[f"model.{LLAMA}{name.removeprefix('llama_model.')}"] = (base, name)
        else:
            found[f"model.{name}"] = (base, name)
    for stage in stages:
        own = locations(weights_in(stage, ("state_dict", "")))
        plain = ("model.llama_model.model.embed_tokens.weight", "model.llama_model.lm_head.weight")
        found |= {name: each for name, each in own.items() if not adapted or name not in plain}
    found |= locations(weights_in(place / "unet"), "unet.")
    return MergedTensors.of(found)


def assemble(module: nn.Module, files: CheckpointFiles, found: minigpt.MiniGPT) -> LoadedModel:
    """Conversations about and with pictures, from a folder with LLaMA's tokenizer.  Raises ConfigError for another."""
    assert isinstance(module, SignalTokenLM)
    signal = module.signals["image"]
    names = tuple(f"[IMG{number}]" for number in range(len(signal)))
    words = files.tokenizer(added=(*names, minigpt.HERE))
    for name, index in zip((*names, minigpt.HERE), (*signal, found.placeholder), strict=True):
        if words.special(name) != index:
            raise ConfigError(f"minigpt-5: {name} is token {words.special(name)}, expected {index}; the vocabulary "
                              "must be that of LLaMA, which the new tokens follow")  # fmt: skip
    seen = found.picture(files)
    image = Modality(name="image", placeholder=minigpt.HERE, transform=seen.transform, tokens=seen.tokens,
                     before=(Words(text="<Img>"),), after=(Words(text="</Img>"),))  # fmt: skip
    processor = Processor(tokenizer=words, template=VokenFormat(signal=names), modalities=(image,),
                          max_length=found.text.config.max_length)  # fmt: skip
    unet: Any = module.generators["image"]
    place = stable_diffusion.find(files.folder)
    codec = None if place is None else stable_diffusion.Codec(place / "vae", "stable-diffusion-2-1-base")
    side = unet.config.side * (8 if codec is None else codec.factor)

    def collator(objective: Any, learner: Any) -> Any:
        return spoken_media(learner, side, codec, objective.unguided) if isinstance(objective, SpokenPictures) else None

    paint = stable_diffusion.own(files.folder, unet=unet)
    return LoadedModel(
        model=module, processor=processor, stop=("###",), sampling=SAMPLING, paint=paint, collator=collator
    )


def drawing(mapper: VokenMapperConfig, noise: unet.UNetConfig) -> tuple[Part, ...]:
    """The boxes of `show` behind MiniGPT-4's."""
    grid = f"[k, {noise.latent}, {noise.side}, {noise.side}]"
    return (
        Part(slot="output connector", modality="image", name="voken mapper", prefix="projectors.image",
             input=f"[k, {VOKENS}, {mapper.in_width}]", output=f"[k, {mapper.queries}, {mapper.width}]"),
        Part(slot="generator", modality="image", name="U-Net of Stable Diffusion 2.1", prefix="generators.image",
             input=f"{grid}, [k, {mapper.queries}, {mapper.width}]", output=grid),
    )  # fmt: skip
