"""OpenFlamingo: few-shot answers from pictures and texts in turn, by gated blocks in a frozen language model.

Paper: OpenFlamingo (arXiv 2308.01390); the design is Flamingo's (arXiv 2204.14198).

    vision_x [B, N, 1, 3, 224, 224] -> CLIP ViT-L/14, patches of the last layer, not normed [items, 256, 1024]
        -> Perceiver resampler [items, 64, 1024] -> keys and values of the gated blocks              (fusion type A)
    `<image>` once per picture: each token sees the last picture at or before it
    -> MPT-1B, RedPajama-INCITE-3B or MPT-7B, a gated block in front of the last layer of each group -> text

Traps: the official checkpoint.pt holds no CLIP and no frozen layers, they lie in `vision` and `language` beside it;
new tokens must be added in the order <|endofchunk|>, <image>, <PAD>; heads of the gated blocks are 8 x 64 at any width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from polymodal.checkpoints import open_flamingo
from polymodal.checkpoints.open_flamingo import CLIP_L, OpenFlamingo
from polymodal.data.interleaved import Shots
from polymodal.data.processor import Modality, Processor
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import ShorterSideCrop
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Stage,
    System,
    Variant,
    hf,
)

END, IMAGE, PAD = "<|endofchunk|>", "<image>", "<PAD>"
SHOTS = Shots(end=END)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as `published` writes it -> the model, at any size."""
    found = open_flamingo.open_flamingo(config)

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side: Any = found.encoder.image_size
        words = tokenizer(files)
        image = Modality(
            name="image",
            placeholder=IMAGE,
            transform=ShorterSideCrop(size=side, crop=side, crop_rounding="even"),
            tokens=lambda values: 1,
            collate=lambda items: {"vision_x": torch.stack(items)},
        )
        limit = found.backbone.max_length
        processor = Processor(tokenizer=words, template=SHOTS, modalities=(image,), max_length=limit)
        return LoadedModel(model=module, processor=processor)

    keys = open_flamingo.keys_of(config, found)
    return ModelSpec(build=found.build, keys=(keys,), parts=drawing(found), assemble=assemble)


def tokenizer(files: CheckpointFiles) -> Tokenizer:
    """The language model's tokenizer.json with the three tokens behind its last one, where it lacks them."""
    table = files.json("tokenizer.json")
    added = table.setdefault("added_tokens", [])
    known = {token["content"]: token["id"] for token in added}
    following = max([*known.values(), *table["model"]["vocab"].values()]) + 1
    for name in (END, IMAGE, PAD):
        if name not in known:
            added.append({"id": following, "content": name, "special": True, "normalized": False, "single_word": False,
                          "lstrip": False, "rstrip": False})  # fmt: skip
            following += 1
    return Tokenizer.from_json(json.dumps(table), control=(END, IMAGE, PAD), eos=END, pad=PAD)


def drawing(found: OpenFlamingo) -> tuple[Part, ...]:
    """The boxes of `show`."""
    vision, queries, side = found.encoder, found.connector.latents, found.encoder.image_size
    seen = f"[items, {vision.tokens}, {vision.width}]"
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT, patches of the last layer", output=seen,
             prefix="encoders.image", input=f"[B, N, 1, 3, {side}, {side}]", tokens=vision.tokens),
        Part(slot="connector", modality="image", name=f"Perceiver resampler, {found.connector.depth} blocks",
             prefix="connectors.image", input=seen, output=f"[items, {queries}, {vision.width}]", tokens=queries),
        Part(slot="backbone", name=f"{found.kind} with {len(found.gated)} gated cross-attention blocks",
             prefix="backbone", input=f"[B, T, {found.backbone.width}], context",
             output=f"[B, T, {found.backbone.vocab_size}]"),
    )  # fmt: skip


def infer(shapes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config of a published checkpoint.pt, by the prefix and width of its language model; None for other files."""
    for name, text in PUBLISHED.items():
        table = "gpt_neox.embed_in.weight" if text["model_type"] == "gpt_neox" else "transformer.wte.weight"
        rows, width = shapes.get(f"lang_encoder.{table}", (0, 0))
        if width == text.get("d_model", text.get("hidden_size")) and "perceiver.latents" in shapes:
            return published(name, rows)
    return None


PUBLISHED: dict[str, dict[str, Any]] = {
    "3b": {"model_type": "mosaic_gpt", "d_model": 2048, "n_heads": 16, "n_layers": 24, "max_seq_len": 2048,
           "attn_qk_ln": True, "alibi": True, "no_bias": True},
    "4b": {"model_type": "gpt_neox", "hidden_size": 2560, "num_attention_heads": 32, "num_hidden_layers": 32,
           "intermediate_size": 10240, "rotary_pct": 1.0, "use_parallel_residual": False,
           "max_position_embeddings": 2048},
    "9b": {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "max_seq_len": 2048},
}  # fmt: skip
EVERY = {"3b": 1, "4b": 2, "9b": 4}


def published(name: str, vocabulary: int = 50280) -> dict[str, Any]:
    """A released model's config; the three added tokens are the last ones of the vocabulary."""
    text = {**PUBLISHED[name], "vocab_size": vocabulary}
    return {"model_type": "open_flamingo", "text_config": text, "vision_config": CLIP_L,
            "cross_attn_every_n_layers": EVERY[name], "eoc_token_id": 50277, "media_token_id": 50278,
            "eos_token_id": 50277}  # fmt: skip


def _variant(name: str, size: str, parameters: int, license: str) -> Variant:
    place = Repository(name=f"openflamingo/OpenFlamingo-{name}", license=license)
    config = published(size)
    return Variant(name=name.lower(), parameters=parameters, config=config, repository=place)


SYSTEM = System(
    id="openflamingo",
    aliases=("OpenFlamingo", "OpenFlamingo v2", "Open-Flamingo"),
    year=2023,
    fusion=("A",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="official open_flamingo", parse_config=parse_config, matches=hf("open_flamingo"),
               gather=lambda files: open_flamingo.gather(files.folder), infer=infer, entry=("model_state_dict", "")),
    ),
    variants=(
        _variant("3B-vitl-mpt1b", "3b", 2_559_117_360, "MIT; language model Apache-2.0"),
        _variant("3B-vitl-mpt1b-langinstruct", "3b", 2_559_117_360, "MIT; language model Apache-2.0"),
        _variant("4B-vitl-rpj3b", "4b", 4_039_816_224, "MIT; language model Apache-2.0"),
        _variant("4B-vitl-rpj3b-langinstruct", "4b", 4_039_816_224, "MIT; language model Apache-2.0"),
        _variant("9B-vitl-mpt7b", "9b", 8_131_465_232, "MIT; language model Apache-2.0"),
    ),
    headline="few-shot captions and answers: examples of pictures with texts in the prompt, no training",
    reference="arXiv 2308.01390",
    recipe=(
        Stage(name="interleaved",
              data="60 million MMC4 documents of 256 tokens and up to 6 pictures, 120 million LAION-2B pairs",
              objective="language model; pairs weigh 0.2, documents 1; of the embedding only the added tokens learn",
              train=("connectors.image", "backbone.blocks.*.cross", "backbone.embed_tokens"), lr=1e-4,
              batch=96 * 64, steps=60_000_000 // (32 * 64), warmup=1875, final=1.0, weight_decay=0.1),
    ),
)  # fmt: skip
