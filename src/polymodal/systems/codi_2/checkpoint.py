"""CoDi-2's names in its training code: config to model, names of tensors, prompts.

    imagebind.*   codi_llama_proj.{0,2,3}   codi_llama_decode.{0,2,3}   llama_model.base_model.model.*
    image_diffuser.*, which is dropped

Nothing was released, so the config is ours: imagebind (ImageBindModel's arguments), llama (a LlamaConfig), lora_r with
lora_alpha (left out where the paths are merged), signal_ids: the ids of "<p>".  The diffusion model is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from polymodal.checkpoints import imagebind_llama
from polymodal.checkpoints.imagebind_llama import Layout
from polymodal.data.imagebind_formats import alternating, tokenised_apart
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.processor import Processor
from polymodal.data.template import Segment, Slot, Special, Words
from polymodal.encoders import imagebind_keys
from polymodal.encoders.imagebind import ImageBindEncoderConfig
from polymodal.errors import ConfigError
from polymodal.generators.diffusion import DiffusionSettings
from polymodal.models.feature_regression_lm import (
    FeatureReader,
    FeatureRegressionLM,
    NextFeature,
    NormedMLP,
    TokenVectors,
)
from polymodal.models.multimodal_lm import ModalityInputs
from polymodal.models.signal_token_lm import SignalTokens
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.weights.keytable import KeyTable, drop, pair

SENSES = ("image", "audio")
PLACEHOLDERS = {"image": -1, "audio": -2}
"""Written where a vector goes; the id that the training code used is in files that were not released."""
LAYOUT = Layout(encoder="imagebind.", linear="codi_llama_proj.", scaled_audio=True)
WORDS = {"modality_heads.audio.2.": "modality_heads.audio.3."}
"""Its ImageBind has a layer more in the head of sounds, so that ImageBind's own file does not fill that linear."""
SIGNAL = (529, 29886, 29958)
"""LLaMA's ids of "<p>", behind which a vector comes."""
NEGATIVE = ("longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, cropped, "
            "worst quality, low quality")  # fmt: skip
UNCLIP = DiffusionSettings(
    output_field="images", condition="image_embeds", guidance=7.5, steps=50, pooled=True,
    extra=(("prompt", NEGATIVE), ("negative_prompt", NEGATIVE), ("noise_level", 500)),
)  # fmt: skip
"""Stable unCLIP 2.1-h as the published code calls it: one text on both sides, the vector half drowned in noise."""
STOP = "##"


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as the module docstring has it, at any size.  Raises ConfigError."""
    imagebind_llama.checked(config, {"signal_ids"})
    backbone, _ = imagebind_llama.backbone_of(config)
    joint, width = imagebind_llama.joint_width(config), config["llama"].get("hidden_size", 4096)
    signal = tuple(config.get("signal_ids", SIGNAL))
    size = config["llama"].get("vocab_size", 32000)
    if not signal or not all(type(each) is int and 0 <= each < size for each in signal):
        raise ConfigError(f"codi-2: signal_ids: expected ids below {size}, found {list(signal)}")

    vision = imagebind_keys.parse_config(config["imagebind"])["vision"]
    assert isinstance(vision, ImageBindEncoderConfig)

    def build() -> FeatureRegressionLM:
        mlp = NormedMLP(joint, width)
        return FeatureRegressionLM(
            {"image": TokenVectors(vision.build()), "audio": imagebind_keys.imagebind(config["imagebind"], "audio")},
            {name: FeatureReader(mlp, by_first=name == "image") for name in SENSES},
            backbone(),
            PLACEHOLDERS,
            {name: ModalityInputs(values=imagebind_llama.SENSES[name]) for name in SENSES},
            {"image": NextFeature(NormedMLP(width, joint))},
            SignalTokens(ids={"image": signal}, settings={"image": UNCLIP}),
        )

    return ModelSpec(build=build, keys=keys_of(config), parts=drawing(config, vision.tokens),
                     assemble=partial(assemble, signal=signal, tokens=vision.tokens))  # fmt: skip


def keys_of(config: Mapping[str, Any]) -> tuple[KeyTable, ...]:
    """The tables of imagebind_llama with MLPs in place of its linear."""
    names = ((0, "first"), (2, "norm"), (3, "last"))
    rows = [row for number, name in names for row in (
        *pair(f"codi_llama_proj.{number}", f"connectors.image.mlp.{name}"),
        *pair(f"codi_llama_decode.{number}", f"projectors.image.mlp.{name}"),
    )]  # fmt: skip
    shared = [(f"connectors.audio.mlp.{name}.{leaf}", f"connectors.image.mlp.{name}.{leaf}")
              for _, name in names for leaf in ("weight", "bias")]  # fmt: skip
    more = KeyTable((*rows, drop("image_diffuser.**")), tied=tuple(shared))
    tables = [each.reworded(WORDS) for each in imagebind_llama.keys_of(config, SENSES, more, LAYOUT)]
    old = {"connectors.image.proj.weight", "connectors.image.proj.bias"}
    return tuple(
        replace(table, rows=tuple(row for row in table.rows if not set(row.targets) & old),
                tied=tuple(each for each in table.tied if each[1] not in old))
        for table in tables
    )  # fmt: skip


@dataclass(frozen=True)
class SpacedFormat:
    """The published prompt: the begin token, then each word as a text of its own, items between them.

    begin: the begin token.  An answer's end is not in the released files; it ends at "##".
    """

    begin: str

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Raises PromptError for a conversation that does not go question, answer, question, ..."""
        alternating(messages, ask)
        pieces: list[Segment] = [Special(name=self.begin)]
        for message in messages:
            learned = message.role == "assistant"
            for part in message.parts:
                if isinstance(part, Text):
                    pieces += [Words(text=word, loss_mask=learned) for word in part.text.split(" ") if word]
                else:
                    pieces.append(Slot(media=part))
        return tokenised_apart(pieces)


def assemble(module: nn.Module, files: CheckpointFiles, *, signal: tuple[int, ...], tokens: int) -> LoadedModel:
    """Conversations from a folder with LLaMA's tokenizer.  Raises ConfigError for one that writes "<p>" otherwise."""
    tokenizer = files.tokenizer()
    if signal == SIGNAL and (found := tuple(tokenizer.encode("<p>"))) != SIGNAL:
        raise ConfigError(
            f'codi-2: the tokenizer writes "<p>" as {list(found)}, expected {list(SIGNAL)}; set signal_ids'
        )
    processor = Processor(
        tokenizer=tokenizer, template=SpacedFormat(begin=imagebind_llama.begin_of(tokenizer)),
        modalities=tuple(replace(each, tokens=SameCount(tokens if each.name == "image" else 1))
                         for each in imagebind_llama.modalities(PLACEHOLDERS)),
    )  # fmt: skip
    return LoadedModel(model=module, processor=processor, stop=(STOP,))


def drawing(config: Mapping[str, Any], tokens: int) -> tuple[Part, ...]:
    """The boxes of `show`; the generator is a pipeline of the caller's (`generators/diffusion.py`)."""
    joint, width = imagebind_llama.joint_width(config), config["llama"].get("hidden_size", 4096)
    kept = [
        replace(part, tokens=tokens, output=f"[N, {tokens}, {joint}]")
        if part.modality == "image" and part.slot == "encoder"
        else part
        for part in imagebind_llama.parts_of(config, SENSES)
        if part.slot != "connector"
    ]
    backbone = replace(kept.pop(), name="LLaMA-2")
    return (
        *kept,
        Part(slot="connector", modality="image", name="MLP with a norm", prefix="connectors.image",
             input=f"[N, S, {joint}]", output=f"[N, S, {width}]", tokens=tokens),
        backbone,
        Part(slot="output connector", modality="image", name="MLP to the next vector", prefix="projectors.image",
             input=f"[k, {width}]", output=f"[k, {joint}]"),
        Part(slot="generator", modality="image", name="Stable unCLIP 2.1-h", prefix="", input=f"[k, {joint}]",
             output="image"),
    )  # fmt: skip


LLAMA_7B = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "intermediate_size": 11008, "vocab_size": 32000, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096}  # fmt: skip
CONFIG = {"model_type": "codi-2", "imagebind": imagebind_keys.HUGE, "llama": LLAMA_7B}
