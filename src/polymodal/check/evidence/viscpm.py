"""VisCPM against the official code: conversations about a picture, trees of any shape, wishes for pictures."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from polymodal.check import randomise, real
from polymodal.check.evidence import _viscpm_paint
from polymodal.check.evidence._viscpm_paint import WISHES
from polymodal.check.evidence.visualglm import ASKED, learned_both_ways
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.viscpm import SYSTEM
from polymodal.systems.viscpm.checkpoint import ANSWER, BEGIN, CHAT, END, UNKNOWN

MARKS = ("<pad>", "<unk>", "<mask>", "<sep>", "</n>", "</_>", "<s>", "</s>", "<root>", "<ans>")
# Both prompts hold a word that the vocabulary lacks: only then may the official search write <unk>, as ours may always.
SEARCHED = {"num_beams": 3, "length_penalty": 3.0, "early_stopping": False, "eos_token_id": END}
KEYS = ("image", "context", "question", "caption", "objects")


def case(name: str, fixture: str) -> Case:
    """A stored case; each row is also given by itself, without its padding."""
    about, tensors = read(fixture)
    pixels = randomise.values("pixel_values", json.loads(about["made"])["pixel_values"])
    mask = tensors["in.attention_mask"].bool()
    alone: list[tuple[int, Tensors]] = []
    for row, kept in enumerate(mask):
        given = {key[3:]: value[row][None] for key, value in tensors.items() if key.startswith("in.")}
        for key, value in given.items():
            if value.shape == (1, len(kept)):
                given[key] = value[:, kept]
        given["image_bound"] = given["image_bound"] - int(kept.long().argmax())
        del given["attention_mask"]
        alone.append((row, {**given, "pixel_values": pixels[row : row + 1]}))
    return fixture_case(name, fixture, alone=alone)


def vocabulary(folder: Path) -> int:
    """A `vocab.txt` as CPM-Bee's, of single signs; returns its size."""
    signs = sorted({sign for text in (*ASKED, *KEYS, *real.captions(4), *sum(WISHES, ())) for sign in text} - {" "})
    lines = [*MARKS, *signs]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def small(words: int, width: int = 64) -> dict[str, Any]:
    """A config of VisCPM-Chat for training checks and the demonstration: 4 queries, pictures of 56 x 56."""
    return {
        "model_type": CHAT, "vocab_size": words, "dim_model": width, "dim_ff": 2 * width, "num_layers": 2,
        "num_heads": 4, "dim_head": width // 4, "position_bias_num_buckets": 32,
        "position_bias_num_segment_buckets": 80, "position_bias_max_distance": 128, "query_num": 4,
        "vision": {"img_size": 56, "patch_size": 14, "encoder_embed_dim": 64, "encoder_attention_heads": 4,
                   "encoder_ffn_embed_dim": 128, "encoder_layers": 2, "max_source_positions": 16},
    }  # fmt: skip


def training_check(steps: int) -> TrainingCheck:
    """Pictures and their names, letter by letter, in a tree: root, picture, answer."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(44)).build()
    # Fresh words are too small for a frozen model to answer to what is shown.
    torch.nn.init.normal_(model.get_parameter("backbone.embed_tokens.weight"))
    prompt = [BEGIN, 8, END, BEGIN, 10, END, BEGIN, *[UNKNOWN] * 4, END, BEGIN, ANSWER, END, BEGIN]
    bound = torch.tensor([[[7, 11]]])
    return caption_check(model, prompt, side=56, first=11, steps=steps, lr=1e-2,
                         more=lambda rows: {"image_bound": bound.expand(len(rows), -1, -1)})  # fmt: skip


def headline() -> HeadlineResult:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = small(vocabulary(folder))
        right, count = learned_both_ways(folder, SYSTEM.formats[0], config, "pytorch_model.v1.bin", steps=300, lr=1e-2)
    return HeadlineResult(
        ok=right == count,
        evidence=f"tiny weights trained on 4 pictures, asked in English and in Chinese: chat names {right} of {count} "
        "(published weights are fetched from the hub by id and were not at hand)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("viscpm_chat"),
    cases=(
        case("two questions, numbered words, rounds before", "viscpm_chat"),
        case("one query, one block, few buckets", "viscpm_chat_small"),
        fixture_case("the official search for the best answer, three beams", "viscpm_search", options=SEARCHED),
        case("the official collater's batch: trees with answers between", "viscpm_answers"),
        fixture_case("wishes for pictures, one of no words, and the noise that is seen", "viscpm_paint"),
    ),
    published=tuple(packed_size("viscpm_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"pretrain": lambda: training_check(60), "instruct": lambda: training_check(30),
                     "fine-tune": lambda: training_check(30),
                     "paint": lambda: _viscpm_paint.training_check(_viscpm_paint.config_of(small(44)))},
    headline=headline,
    layouts={SYSTEM.formats[1].name: lambda: _viscpm_paint.headline(vocabulary, small)},
    exceptions=(
        "the official search also divides scores by 0.7 and makes tokens that an answer holds already less likely by "
        "1.1; `chat` searches with as many beams and the same power of the length (compared), without these two",
        "the hub's repositories hold a class of transformers too, whose code and config were not at hand: the files of "
        "weights are read by themselves, by the official code's names and their shapes",
        "of words that the vocabulary lacks, all are read; none is written, where the official code may copy one",
    ),
)  # fmt: skip
