"""What PandaGPT, NExT-GPT and ModaVerse share: ImageBind, one linear, LLaMA with low-rank paths, their files.

    visual_encoder.* (ImageBind)   llama_proj.*   llama_model.base_model.model.* (LLaMA inside PEFT)

A folder holds the whole state dict in one file, or the published pieces: `imagebind_huge.pth`, the delta
`pytorch_model.pt` and the language model in a folder of its own.
Traps: sound is NOT multiplied by its scale here, heat and the rest are; PEFT calls the frozen linear `q_proj.weight`
in old versions and `q_proj.base_layer.weight` in new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from polymodal.backbones import hf_text
from polymodal.checkpoints.peft_lm import adapted_keys, build_adapted, wrapped_keys
from polymodal.checkpoints.record import CheckpointFiles, Part
from polymodal.data import imagebind_inputs
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Around, Modality
from polymodal.data.tokenizer import Tokenizer
from polymodal.encoders import imagebind_keys
from polymodal.errors import ConfigError, WeightsError
from polymodal.models.imagebind_lm import ImageBindConnector
from polymodal.models.multimodal_lm import ModalityInputs
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.merged import MergedTensors, locations

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
SENSES = {"image": "vision", "audio": "audio", "thermal": "thermal", "depth": "depth", "imu": "imu"}
"""Ours -> the official name; `video` goes through `image`."""


@dataclass(frozen=True)
class Layout:
    """Prefixes of ImageBind's, the linear's and the language model's names in a state dict (`llm` before PEFT's
    `base_model.model.`).  scaled_audio: sound enters with ImageBind's scale, as upstream code has it."""

    encoder: str = "visual_encoder."
    linear: str = "llama_proj."
    llm: str = "llama_model."
    scaled_audio: bool = False

    @property
    def adapted(self) -> str:
        """Before the language model's own names, inside PEFT."""
        return f"{self.llm}base_model.model."

    def scaled(self, sense: str) -> bool:
        return self.scaled_audio or sense != "audio"


PANDAGPT = Layout()
"""Also NExT-GPT's."""


def inputs_of(senses: Iterable[str]) -> dict[str, ModalityInputs]:
    """Tensors by their official names; a video's is called `video` here, since both are `vision` there."""
    found = {name: ModalityInputs(values=SENSES[name]) for name in senses}
    return found | {"video": ModalityInputs(values="video", uses="image")}


def modalities(names: Iterable[str], before: Around = (), after: Around = ()) -> tuple[Modality, ...]:
    """What ImageBind's loaders make of media; the ids of their placeholders are numbers outside the vocabulary."""
    numbers = {"image": -1, "audio": -2, "video": -3, "thermal": -4, "depth": -5, "imu": -6}

    def modality(name: str) -> Modality:
        values = inputs_of(SENSES)[name].values
        transform = imagebind_inputs.INPUTS[name][1]
        return Modality(name=name, placeholder="", placeholder_id=numbers[name], transform=transform,
                        tokens=SameCount(1), before=before, after=after, values=values)  # fmt: skip

    return tuple(modality(name) for name in names)


def begin_of(tokenizer: Tokenizer) -> str:
    """The begin token's name, which both formats write by hand.  Raises WeightsError for a tokenizer without one."""
    for name, index in tokenizer.special_tokens.items():
        if index == tokenizer.bos_id:
            return name
    raise WeightsError("tokenizer: no begin token is named; tokenizer_config.json should say bos_token")


def signal_names(tokenizer: Tokenizer, signals: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
    """Modality -> names of NExT-GPT's signal tokens in order.  Raises WeightsError where they have other ids."""
    known = {"image": "[IMG{}]", "video": "[VID{}]", "audio": "[AUD{}]"}
    names = {name: tuple(known[name].format(index) for index in range(len(ids))) for name, ids in signals.items()}
    found = {name: tuple(tokenizer.special_tokens.get(each) for each in theirs) for name, theirs in names.items()}
    if found != dict(signals):
        raise WeightsError(f"tokenizer: expected the signal tokens [IMG0], [VID0], ... at {signals}, found {found}")
    return names


def encoders_of(config: Mapping[str, Any], senses: Iterable[str], layout: Layout = PANDAGPT) -> dict[str, nn.Module]:
    return {name: imagebind_keys.imagebind(config["imagebind"], SENSES[name], layout.scaled(name)) for name in senses}


def connectors_of(config: Mapping[str, Any], senses: Iterable[str], width: int) -> dict[str, nn.Module]:
    """One linear under the name of every sense."""
    shared = ImageBindConnector(joint_width(config), width)
    return dict.fromkeys(senses, shared)


def joint_width(config: Mapping[str, Any]) -> int:
    """Width of ImageBind's vectors."""
    return int({**imagebind_keys.DEFAULTS, **config["imagebind"]}["out_embed_dim"])


def parts_of(config: Mapping[str, Any], senses: Iterable[str]) -> tuple[Part, ...]:
    """The encoders, the linear and the decoder of the drawing."""
    vector, width = f"[N, {joint_width(config)}]", config["llama"].get("hidden_size", 4096)
    vocabulary = config["llama"].get("vocab_size", 32000)
    return (
        *(Part(slot="encoder", modality=name, name=f"ImageBind {SENSES[name]}", prefix=f"encoders.{name}", tokens=1,
               input=imagebind_keys.INPUT_SHAPES[SENSES[name]], output=vector) for name in senses),
        Part(slot="connector", modality="image", name="linear", prefix="connectors.image", input=vector,
             output=f"[N, 1, {width}]", tokens=1),
        Part(slot="backbone", name="Vicuna", prefix="backbone", input=f"[B, T, {width}]",
             output=f"[B, T, {vocabulary}]"),
    )  # fmt: skip


def backbone_of(config: Mapping[str, Any]) -> tuple[Any, KeyTable]:
    """A function that builds the decoder with low-rank paths, and its names below `base_model.model.`."""
    decoder, table = hf_text.decoder_of(config["llama"])

    if not config.get("lora_r"):
        return decoder.build, table
    build = partial(build_adapted, decoder, TARGETS, config["lora_r"], config.get("lora_alpha", 32))
    return build, adapted_keys(table, TARGETS)


def keys_of(
    config: Mapping[str, Any], senses: tuple[str, ...], more: KeyTable, layout: Layout = PANDAGPT
) -> tuple[KeyTable, ...]:
    """Both spellings of the whole state dict; more: rows for what only one of the systems has."""
    table = KeyTable()
    for name, theirs in SENSES.items():
        part = imagebind_keys.keys(theirs, layout.scaled(name)).prefixed(target=f"encoders.{name}.")
        table += part if name in senses else imagebind_keys.unused(theirs)
    table = (table + imagebind_keys.unused("text")).prefixed(layout.encoder)
    first, *others = senses
    shared = [(f"connectors.{name}.proj.{leaf}", f"connectors.{first}.proj.{leaf}")
              for name in others for leaf in ("weight", "bias")]  # fmt: skip
    linear = [rename(f"{layout.linear}{leaf}", f"connectors.{first}.proj.{leaf}") for leaf in ("weight", "bias")]
    _, llama = backbone_of(config)
    prefix = layout.adapted if config.get("lora_r") else layout.llm
    old = llama.prefixed(prefix, "backbone.")
    whole = table + KeyTable(tuple(linear), tied=tuple(shared)) + more
    return whole + old, whole + wrapped_keys(old, TARGETS)


def gather(files: CheckpointFiles, layout: Layout = PANDAGPT) -> Mapping[str, Tensor]:
    """The whole state dict: from one file, or from the three published pieces.  Raises WeightsError."""
    bind, delta = files.folder / "imagebind_huge.pth", files.folder / "pytorch_model.pt"
    if not bind.is_file():
        return weights_in(files.folder)
    llama = [each for each in sorted(files.folder.iterdir()) if (each / "config.json").is_file()]
    if len(llama) != 1 or not delta.is_file():
        raise WeightsError(
            f"{files.folder}: beside imagebind_huge.pth expected pytorch_model.pt and one folder of the language model"
        )
    whole = locations(weights_in(bind), layout.encoder) | locations(weights_in(llama[0]), layout.adapted)
    return MergedTensors.of(whole | locations(weights_in(delta)))


def checked(config: Mapping[str, Any], known: set[str]) -> Mapping[str, Any]:
    """Raises ConfigError for an option nobody reads."""
    if unknown := set(config) - known - {"model_type", "architectures", "imagebind", "llama", "lora_r", "lora_alpha"}:
        raise ConfigError(f"{config.get('model_type')}: unknown options {sorted(unknown)}")
    return config


def infer(shapes: Mapping[str, Any], layout: Layout = PANDAGPT) -> dict[str, Any] | None:
    """The config of a whole state dict, read off its shapes; None for another file.

    The numbers of heads are in no tensor: the published heads of 128 are taken.
    """
    if f"{layout.linear}weight" not in shapes:
        return None
    bind = imagebind_keys.infer(
        {name.removeprefix(layout.encoder): x for name, x in shapes.items() if name.startswith(layout.encoder)}
    )
    prefix = layout.adapted if f"{layout.adapted}model.embed_tokens.weight" in shapes else layout.llm
    if bind is None or f"{prefix}model.embed_tokens.weight" not in shapes:
        return None
    vocabulary, width = shapes[f"{prefix}model.embed_tokens.weight"]
    layers = {name.split(".layers.")[1].split(".")[0] for name in shapes if name.startswith(f"{prefix}model.layers.")}
    ranks = [x[0] for name, x in shapes.items() if ".lora_A." in name]
    llama = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": len(layers),
             "num_attention_heads": max(1, width // 128), "vocab_size": vocabulary, "rms_norm_eps": 1e-6,
             "intermediate_size": shapes[f"{prefix}model.layers.0.mlp.gate_proj.weight"][0]}  # fmt: skip
    return {"imagebind": bind, "llama": llama, "lora_r": ranks[0] if ranks else None, "lora_alpha": 32}


def expected(config: Mapping[str, Any], name: str, value: str) -> None:
    """Raises ConfigError for another value of an option than the one supported."""
    if config.get(name, value) != value:
        raise ConfigError(f"{config.get('model_type')}: {name} {config[name]!r} is not supported; expected {value!r}")
