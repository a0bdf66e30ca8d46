"""mini: our own small model that answers about pictures and speech on a CPU the moment it is installed.

    picture -> 224 x 224 on white -> EfficientNet-Lite0 at five depths -> names connector: 12 words and 8 dense
            features -> spliced at placeholders -> SmolLM2-135M-Instruct -> text                       (fusion type C)
    speech  -> Whisper tiny.en -> its words, as text of the conversation
    picture, sentence -> vectors of one space (all-MiniLM-L6-v2), for `embed` and `classify`

Published weights are fetched from package registries; what we trained (the connector and rank-8 adapters of SmolLM2)
ships in `assets/mini/trained.safetensors`.  Recipe: recipes/mini; numbers: docs/mini.md.
Traps: the adapters change what SmolLM2 says about anything, so a conversation without picture or recording is
answered by the bare model, which takes its own memory when the first one comes.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymodal.assemblies.hearing import Hearing, open_whisper
from polymodal.assemblies.multimodal_lm import MultimodalLM
from polymodal.assemblies.sentence_space import MINILM, MINILM_TOKENIZER, MiniLM, SentenceSpace
from polymodal.assemblies.transcriber import ENGLISH_RANKS, TINY_EN_WEIGHTS
from polymodal.backbones.decoder import Decoder
from polymodal.backbones.llama import CONFIGS, SMOLLM2_135M_GGUF, gguf_keys
from polymodal.connectors.names import NamesConfig, NamesConnector
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import SMOLLM2, Words
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import PadToSquare
from polymodal.encoders.efficientnet import LITE0_SOURCE, PIXEL_MEAN, PIXEL_STD, PUBLISHED_KEYS, fold_batch_norms
from polymodal.encoders.efficientnet_grid import EfficientNetGrid, EfficientNetGridConfig, grid_keys
from polymodal.nn.fuse import fuse_projections
from polymodal.nn.lora import apply_lora, load_lora, merge_lora
from polymodal.systems._system import Assembled, LoadOptions, Part, System, Variant
from polymodal.train.recipe import Stage
from polymodal.weights.load import load_into, load_part, open_source, under
from polymodal.weights.packed import unpack
from polymodal.weights.source import Source

ENCODER = EfficientNetGridConfig()
CONNECTOR = NamesConfig(names=7021, classes=3206)
BACKBONE = CONFIGS["smollm2-135m"]
TEMPLATE = SMOLLM2
PLACEHOLDER = "<reponame>"  # a special token that SmolLM2 never meets in a chat
IMAGE = PadToSquare(size=224, colour=(255, 255, 255), interpolation="lanczos", mean=PIXEL_MEAN, std=PIXEL_STD)
BEFORE, AFTER = (Words(text="Picture:"),), (Words(text="\n"),)
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 8, 16.0
WEIGHTS = (SMOLLM2_135M_GGUF, LITE0_SOURCE, TINY_EN_WEIGHTS, ENGLISH_RANKS, MINILM, MINILM_TOKENIZER)
TRAINED = Source(kind="file", name=str(Path(__file__).parent / "assets" / "mini" / "trained.safetensors"),
                 license="Apache-2.0", format="safetensors")


def fresh() -> tuple[EfficientNetGrid, NamesConnector, Decoder]:
    """Encoder, connector and backbone with fresh weights, on the meta device too."""
    return ENCODER.build(), CONNECTOR.build(ENCODER.width, BACKBONE.width), BACKBONE.build()


def join(encoder: EfficientNetGrid, connector: NamesConnector, backbone: Decoder) -> MultimodalLM:
    return MultimodalLM({"image": encoder}, {"image": connector}, backbone, {"image": 4})


def teach(connector: NamesConnector, names: list[str], tokenizer: Tokenizer, table: Tensor) -> None:
    """Give the connector its names as tokens of the language model."""
    ids = [tokenizer.encode(f" {name}") for name in names]
    separator, filler = (tokenizer.encode(mark)[0] for mark in (",", "."))
    connector.set_names(ids, separator, filler, table)


def load(variant: Variant, options: LoadOptions) -> Assembled:
    """Build, fill from the published files and from ours, merge the adapters, and join what hears and compares."""
    source = partial(open_source, progress=options.progress, offline=options.offline)
    place: dict[str, Any] = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    language, trained = source(SMOLLM2_135M_GGUF), source(TRAINED)
    ours, tokenizer = unpack(trained), Tokenizer.from_gguf(language.metadata)

    def speaker(adapted: bool) -> Decoder:
        backbone = BACKBONE.build()
        load_into(backbone, language, gguf_keys(BACKBONE))
        if adapted:
            apply_lora(backbone, ADAPTED, RANK, ALPHA)
            load_lora(backbone, under(ours, "adapters."))
            merge_lora(backbone)
        fuse_projections(backbone)
        return backbone.eval()

    encoder, connector, _ = fresh()
    load_into(encoder, source(LITE0_SOURCE), grid_keys(PUBLISHED_KEYS))
    encoder.trunk = fold_batch_norms(encoder.trunk)
    load_part(connector, ours, "connector.")
    backbone = speaker(adapted=True)
    teach(connector, json.loads(trained.metadata["names"]), tokenizer, backbone.embed_tokens.weight)
    model = join(encoder, connector, backbone).to(**place).eval()
    hearing = Hearing(partial(open_whisper, "tiny.en", TINY_EN_WEIGHTS, ENGLISH_RANKS, source))
    space = SentenceSpace(encoder, connector, IMAGE, MiniLM(MINILM, MINILM_TOKENIZER, source))
    image = Modality(name="image", placeholder=PLACEHOLDER, transform=IMAGE, before=BEFORE, after=AFTER,
                     tokens=lambda values: CONNECTOR.tokens(ENCODER.tokens))
    processor = Processor(tokenizer=tokenizer, template=TEMPLATE, modalities=(image,),
                          max_length=BACKBONE.max_length, rewrite=hearing.rewrite)
    bare = partial(MultimodalLM, {}, {})
    return Assembled(model=model, processor=processor, text=lambda: bare(speaker(adapted=False).to(**place), {}),
                     transcribe=hearing.text, score=space.score, embed=space.embed)


def parts(variant: Variant) -> tuple[Part, ...]:
    slots = CONNECTOR.tokens(ENCODER.tokens)
    return (
        Part(slot="encoder", modality="image", name="EfficientNet-Lite0, blocks 7, 10, 14, 15 and top",
             prefix="encoders.image", takes="[N, 3, 224, 224]", gives=f"[N, {ENCODER.tokens}, {ENCODER.width}]",
             tokens=ENCODER.tokens),
        Part(slot="encoder", modality="audio", name="Whisper tiny.en, encoder and decoder", prefix="",
             parameters=37_184_256, takes="[samples]", gives="words of the conversation"),
        Part(slot="connector", modality="image", name=f"names: 12 words of {CONNECTOR.names} names, 8 dense",
             prefix="connectors.image", takes=f"[N, {ENCODER.tokens}, {ENCODER.width}]", gives=f"[N, {slots}, 576]",
             tokens=slots),
        Part(slot="backbone", name="SmolLM2-135M-Instruct + rank-8 adapters", prefix="backbone", takes="[B, T, 576]",
             gives="[B, T, 49152]"),
    )  # fmt: skip


SYSTEM = System(
    id="mini",
    names=("mini", "polymodal mini"),
    year=2026,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image", "audio"),
    outputs=("text",),
    variants=(
        Variant(name="135m", parameters=183_771_115, weights=WEIGHTS),
    ),
    headline="names and describes a picture and answers typed or spoken questions about it, on a CPU",
    sheet="docs/mini.md",
    build=lambda variant: join(*fresh()),
    parts=parts,
    load=load,
    recipe=(
        Stage(name="align", data="pictures and their names", objective="ridge in closed form; names (MIL-NCE)",
              train=("connectors.image.sentence", "connectors.image.recall"), lr=1e-3, batch=256, steps=2500,
              warmup=100, weight_decay=0.1, betas=(0.9, 0.98), seed=1),
        Stage(name="instruct", data="questions about pictures", objective="next token, adapters of the backbone too",
              train=("connectors.image.dense", "connectors.image.confidence"), lr=1e-3, batch=12, steps=1000,
              warmup=50, seed=2),
    ),
)  # fmt: skip
