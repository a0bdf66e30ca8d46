"""What `mini` is made of, and how its parts are built, filled and joined; the system itself is `mini`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from polymodal.backbones.decoder import Decoder
from polymodal.backbones.llama import CONFIGS, SMOLLM2_135M_GGUF, gguf_keys
from polymodal.connectors.ctc import CTCConnector, CTCConnectorConfig
from polymodal.connectors.everyday import EverydayConfig
from polymodal.connectors.names import NamesConfig, NamesConnector
from polymodal.data.messages import Message, pictures_first
from polymodal.data.template import SMOLLM2, Words
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import CropThenResize, PadToSquare, Views
from polymodal.encoders.centernet import CENTERNET_SOURCE, CENTERNET_VALUES
from polymodal.encoders.centernet import PUBLISHED_KEYS as CENTERNET_KEYS
from polymodal.encoders.efficientnet import LITE0_SOURCE, PIXEL_MEAN, PIXEL_STD, PUBLISHED_KEYS, fold_batch_norms
from polymodal.encoders.efficientnet_grid import grid_keys
from polymodal.encoders.seen_and_found import SeenAndFound, SeenAndFoundConfig
from polymodal.encoders.whisper import OPENAI_KEYS as WHISPER_KEYS
from polymodal.encoders.whisper import WhisperEncoder
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.models.speech_seq2seq import ENGLISH_RANKS, TINY_EN_WEIGHTS, WHISPER
from polymodal.nn.fuse import fuse_projections
from polymodal.nn.lora import apply_lora, load_lora, merge_lora
from polymodal.pipelines.speech_as_features import LENGTHS
from polymodal.systems.mini.sentence_space import MINILM, MINILM_TOKENIZER
from polymodal.weights.build import build_empty
from polymodal.weights.load import load_module, under
from polymodal.weights.packed import unpack
from polymodal.weights.read import TensorFile
from polymodal.weights.source import Source

ENCODER = SeenAndFoundConfig()
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
EXTRA = 115  # everyday words of recipes/mini/everyday.txt and things.txt that are not among the learned names
CONNECTOR = NamesConfig(
    names=7021, classes=3206, colours=len(COLOURS), everyday=EverydayConfig(kinds=ENCODER.detector.kinds, extra=EXTRA),
    summary_dropout=0.3,
)  # fmt: skip
SPOKEN = CTCConnectorConfig(vocab_size=6008)
BACKBONE = CONFIGS["smollm2-135m"]
TEMPLATE = SMOLLM2
REPETITION_PENALTY = 1.05  # of chats; without one a long greedy answer of a model this small may end in a loop
PLACEHOLDER, SPOKEN_PLACEHOLDER = "<reponame>", "<filename>"  # special tokens that SmolLM2 never meets in a chat
IMAGE = PadToSquare(size=224, colour=(255, 255, 255), interpolation="lanczos", mean=PIXEL_MEAN, std=PIXEL_STD)
SCENE = PadToSquare(size=512, colour=(0, 0, 0), interpolation="bilinear", mean=(0.0,) * 3, std=(1 / 255,) * 3)
VIEWS = Views({
    "pixel_values": IMAGE,
    "centre_values": CropThenResize(size=224, border=0, interpolation="lanczos", mean=PIXEL_MEAN, std=PIXEL_STD),
    "scene_values": SCENE,
})  # fmt: skip
BEFORE, AFTER = (Words(text="Picture:"),), (Words(text="\n"),)
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 8, 16.0
WEIGHTS = (
    SMOLLM2_135M_GGUF,
    LITE0_SOURCE,
    CENTERNET_VALUES,
    CENTERNET_SOURCE,
    TINY_EN_WEIGHTS,
    ENGLISH_RANKS,
    MINILM,
    MINILM_TOKENIZER,
)
HEARS = "hears"  # the variant
YES = "calibration.yes"  # what is added to the row of "Yes": see recipes/mini/calibrate.py
TRAINED, TRAINED_HEARS = (
    Source(kind="file", name=str(Path(__file__).parent / "assets" / f"{name}.safetensors"),
           license="Apache-2.0", format="safetensors") for name in ("trained", HEARS)
)  # fmt: skip
EAR = WHISPER["tiny.en"].encoder
Hears = tuple[WhisperEncoder, CTCConnector]
Rewrite = Callable[[tuple[Message, ...]], tuple[Message, ...]]


def fresh() -> tuple[SeenAndFound, NamesConnector]:
    """Encoder and connector of pictures with fresh weights, on the meta device too."""
    return ENCODER.build(), CONNECTOR.build(ENCODER.width, BACKBONE.width)


def fresh_hearing() -> Hears:
    return EAR.build(), SPOKEN.build(EAR.width, BACKBONE.width)


def join(encoder: SeenAndFound, connector: NamesConnector, backbone: Decoder, hears: Hears | None) -> MultimodalLM:
    """The assembly; recordings enter through it where `hears` is given."""
    views = ModalityInputs(values="pixel_values", encoder=("centre_values", "scene_values"))
    if hears is None:
        return MultimodalLM({"image": encoder}, {"image": connector}, backbone, {"image": 4}, inputs={"image": views})
    sounds = ModalityInputs(values="audio_values", connector=(LENGTHS,))
    return MultimodalLM(
        {"image": encoder, "audio": hears[0]}, {"image": connector, "audio": hears[1]}, backbone,
        {"image": 4, "audio": 6}, inputs={"image": views, "audio": sounds},
    )  # fmt: skip


def in_learned_order(hear: Rewrite, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation as the adapters learned it: recordings as `hear` writes them, pictures in front of the rest."""
    return pictures_first(hear(messages))


def set_vocabulary(connector: NamesConnector, names: list[str], tokenizer: Tokenizer, table: Tensor) -> None:
    """Give the connector its names, and its colours where it has that head, as tokens of the language model."""
    ids = [tokenizer.encode(f" {name}") for name in names]
    separator, filler = (tokenizer.encode(mark)[0] for mark in (",", "."))
    colours = [tokenizer.encode(f" {colour}")[0] for colour in COLOURS[: connector.config.colours]]
    connector.set_names(ids, separator, filler, table, colours)


def kinds(connector: NamesConnector, names: list[str]) -> list[str]:
    """What each kind of thing that the detector finds is called."""
    assert connector.everyday is not None
    return [names[index] for index in connector.everyday.thing_of.tolist()]


def adapters_in(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of what we trained; none before stage `instruct`."""
    return {name.removeprefix("adapters."): x for name, x in ours.items() if name.startswith("adapters.")}


def load_lm(
    language: TensorFile, adapters: Mapping[str, Tensor], quantise: str | None = None, apart: bool = False
) -> Decoder:
    """The backbone, filled; with adapters, those are merged; then linears and head may be quantised.

    apart: adapters stay beside their linears, which are not joined, so that training goes on with them.
    """
    backbone = load_module(BACKBONE.build, language, (gguf_keys(BACKBONE),))
    if adapters:
        apply_lora(backbone, ADAPTED, RANK, ALPHA)
        load_lora(backbone, adapters)
    if apart:
        return backbone.eval()
    merge_lora(backbone)
    fuse_projections(backbone)
    if quantise is not None:
        backbone.quantise(quantise)
    return backbone.eval()


def add_yes_bias(backbone: Decoder, tokenizer: Tokenizer, row: Tensor) -> None:
    """Add `row` to the embedding of "Yes", which is also what the head compares an answer's beginning with."""
    with torch.no_grad():
        backbone.embed_tokens.weight[tokenizer.encode("Yes")[0]] += row


def load_vision(
    classifier: TensorFile, detector: TensorFile, ours: Mapping[str, Tensor]
) -> tuple[SeenAndFound, NamesConnector]:
    """Encoder and connector of pictures, filled; the connector has yet to be taught its names.

    classifier, detector: the published files of EfficientNet-Lite0 and of CenterNet; ours: what we trained.
    """
    encoder = build_empty(ENCODER.build)
    encoder.grid = load_module(ENCODER.grid.build, classifier, (grid_keys(PUBLISHED_KEYS),))
    encoder.grid.trunk = fold_batch_norms(encoder.grid.trunk)
    encoder.detector = load_module(ENCODER.detector.build, detector, (CENTERNET_KEYS,), dtype=torch.float32)
    connector = load_module(partial(CONNECTOR.build, ENCODER.width, BACKBONE.width), under(ours, "connector."), None)
    return encoder, connector


def load_audio(published: TensorFile, ours: TensorFile, table: Tensor) -> Hears:
    """Encoder and connector of recordings, filled; table: the backbone's embeddings."""
    ear = load_module(EAR.build, under(published, "encoder."), (WHISPER_KEYS,), dtype=torch.float32)
    spoken = load_module(partial(SPOKEN.build, EAR.width, BACKBONE.width), unpack(ours), None)
    spoken.set_embeddings(table)
    return ear, spoken
