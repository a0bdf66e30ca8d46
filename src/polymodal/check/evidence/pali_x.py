"""PaLI-X, of which nothing was released, against released models of its parts, joined as the paper says: T5 of
`transformers`, which UL2 is, behind timm's blocks of ViT-22B.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat, train_on_conversations, writer
from polymodal.check.film import film, zoomed
from polymodal.check.fixture import counted_case, fixture_source, packed_size
from polymodal.check.record import Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.pipelines.grounding import overlap
from polymodal.systems.pali_x import SYSTEM
from polymodal.systems.pali_x.boxes import box_text, read_boxes
from polymodal.systems.pali_x.prompts import detect

SPECIALS = ("<pad>", "</s>", "<unk>", "<extra_id_0>")


def small(vocabulary: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 4 patches a picture of 56 x 56, 2 frames a video."""
    text = {"model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
            "vocab_size": vocabulary}  # fmt: skip
    vision = {"model_type": "vit-22b", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
              "num_attention_heads": 4, "image_size": 56, "patch_size": 28}  # fmt: skip
    return {"model_type": "pali-x", "text_config": text, "vision_config": vision, "video_frames": 2}


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; the features stand in front of the prompt, outside the vocabulary."""
    torch.manual_seed(0)
    return caption_check(SYSTEM.formats[0].model_spec(small(40)).build(), [40] * 4 + [32], side=56)


def boxed(folder: Path, config: Mapping[str, Any]) -> int:
    """Train a folder to box one of eight pictures that stands in a corner of a white page, and ask through `ground`:
    how many boxes cover their picture by half."""
    model_spec = SYSTEM.formats[0].model_spec(config)
    pages = []
    for number, (picture, name) in enumerate(real.pictures()[:8]):
        page = picture.resize((112, 112)).point(lambda value: 255)
        left, top = 56 * (number % 2), 56 * (number // 2 % 2)
        page.paste(picture.resize((56, 56)), (left, top))
        pages.append((page, name, (left / 112, top / 112, left / 112 + 0.5, top / 112 + 0.5)))
    talks = [[{"role": "user", "content": [pm.image(page), detect(name)]},
              {"role": "assistant", "content": box_text(name, box)}] for page, name, box in pages]  # fmt: skip
    train_on_conversations(pm.load(folder), talks, writer(folder, model_spec), steps=300)
    model, right = pm.load(folder), 0
    for page, name, box in pages:
        answer = model.chat(pm.image(page), detect(name), max_tokens=48).text
        found = read_boxes(answer)
        right += len(found) == 1 and found[0].label == name and overlap(found[0].box, box) > 0.5
    return right


def headline() -> HeadlineResult:
    """A tiny PaLI-X names eight real pictures by `chat`, then eight films of them, then says where they stand."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = small(byte_tokenizer(folder, SPECIALS, eos="</s>", pad="<pad>"))
        names = [(pm.image(picture), name) for picture, name in real.pictures()[:8]]
        named = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=250, samples=names)
        films = [(pm.video(film(zoomed(picture))), name) for picture, name in real.pictures()[:8]]
        seen = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=250, samples=films)
        where = boxed(folder, config)
    return HeadlineResult(
        ok=named >= 7 and seen >= 7 and where >= 7,
        evidence=f"tiny weights trained on 8 pictures: chat names {named} of them, {seen} of 8 films of theirs, and "
        f"boxes {where} of 8 (nothing was released)",
    )


EVIDENCE = Evidence(
    oracle=f"paper: {fixture_source('pali_x')}",
    cases=(
        counted_case("pictures, frames, neither", "pali_x", beside=("decoder_input_ids",), pixel_values=(2, 0, 0),
                     video_values=(0, 1, 0)),
        counted_case("odd widths, another depth of the decoder, odd buckets", "pali_x_small",
                     beside=("decoder_input_ids",), pixel_values=(1, 2)),
    ),
    published=tuple(packed_size("pali_x_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks=dict.fromkeys(("base", "high-resolution", "finetune"), training_check),
    headline=headline,
    exceptions=(
        "nothing was released; read from the paper: ViT-22B, an encoder-decoder of 50 and 50 layers and 32B like UL2, "
        "a linear between, order, stages and data; the number of parameters is counted, the paper says 55B",
        "taken from UL2's paper: widths, heads, gate, relative positions; from PaLI's: prompts of captions and "
        "questions, the vocabulary; other prompts, the words of boxes and how shots are joined are recalled or chosen",
        "not known: rates, shares, which frames of a video are taken (evenly spread here); pictures that are written "
        "as 256 tokens of a codec, one of thirteen objectives, are not part of it",
    ),
)  # fmt: skip
