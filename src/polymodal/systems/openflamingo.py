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

from polymodal.data.interleaved import Shots
from polymodal.data.processor import Modality, Processor
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import ShorterSideCrop
from polymodal.systems import _open_flamingo
from polymodal.systems._layout import Files, Layout, Opened, Repository, hf
from polymodal.systems._system import Assembled, System, Variant
from polymodal.train.recipe import Stage

END, IMAGE, PAD = "<|endofchunk|>", "<image>", "<PAD>"
SHOTS = Shots(end=END)


def open_config(config: Mapping[str, Any]) -> Opened:
    """A config as `_open_flamingo.published` writes it -> the model, at any size."""
    found = _open_flamingo.grafted(config)

    def assemble(module: Any, files: Files) -> Assembled:
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
        return Assembled(model=module, processor=processor)

    keys = _open_flamingo.keys_of(config, found)
    return Opened(build=found.build, keys=(keys,), parts=found.drawing(), assemble=assemble)


def tokenizer(files: Files) -> Tokenizer:
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


def _variant(name: str, size: str, parameters: int, license: str) -> Variant:
    place = Repository(name=f"openflamingo/OpenFlamingo-{name}", license=license)
    config = _open_flamingo.published(size)
    return Variant(name=name.lower(), parameters=parameters, config=config, repository=place)


SYSTEM = System(
    id="openflamingo",
    names=("OpenFlamingo", "OpenFlamingo v2", "Open-Flamingo"),
    year=2023,
    fusion=("A",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    layouts=(
        Layout(name="official open_flamingo", open=open_config, matches=hf("open_flamingo"),
               gather=_open_flamingo.gather, infer=_open_flamingo.infer, entry=("model_state_dict", "")),
    ),
    variants=(
        _variant("3B-vitl-mpt1b", "3b", 2_559_117_360, "MIT; language model Apache-2.0"),
        _variant("3B-vitl-mpt1b-langinstruct", "3b", 2_559_117_360, "MIT; language model Apache-2.0"),
        _variant("4B-vitl-rpj3b", "4b", 4_039_816_224, "MIT; language model Apache-2.0"),
        _variant("4B-vitl-rpj3b-langinstruct", "4b", 4_039_816_224, "MIT; language model Apache-2.0"),
        _variant("9B-vitl-mpt7b", "9b", 8_131_465_232, "MIT; language model Apache-2.0"),
    ),
    headline="few-shot captions and answers: examples of pictures with texts in the prompt, no training",
    sheet="arXiv 2308.01390",
    recipe=(
        Stage(name="interleaved",
              data="60 million MMC4 documents of 256 tokens and up to 6 pictures, 120 million LAION-2B pairs",
              objective="language model; pairs weigh 0.2, documents 1; of the embedding only the added tokens learn",
              train=("connectors.image", "backbone.blocks.*.cross", "backbone.embed_tokens"), lr=1e-4,
              batch=96 * 64, steps=60_000_000 // (32 * 64), warmup=1875, final=1.0, weight_decay=0.1),
    ),
)  # fmt: skip
