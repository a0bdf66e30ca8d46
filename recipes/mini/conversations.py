"""What stage `instruct` learns from, as files of `polymodal train`: pictures, and questions about them with answers.

    output of prepare.py and replies.py -> FOLDER/pictures/ROW.png, FOLDER/instruct.jsonl

    {"image": "pictures/17.png", "messages": [...]}     one to four questions about a picture, with their answers
    {"messages": [...]}                                 every tenth row: SmolLM2's own replies, transcripts to repeat

Two fifths of the rows are about validation pictures: stage `align` has seen the training ones, so their words are too
good, and a language model that learned from those alone would believe every word.  No test picture is used, none of
Tux Paint's few validation pictures, since it is measured with them, and no validation picture of a concept that the
tests call unseen.  Everything follows from the seed; what is there is not written again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from measure import Pictures
from questions import NameIndex, training_question

from polymodal.pipelines.speech_as_text import quoted

SHARES = {"fluent": 3.0, "tuxpaint": 2.0, "openclipart": 3.0, "quickdraw": 1.5, "cifar10": 1.0, "groceries": 0.7}
MOST = {"train": 700, "val": 250}  # pictures of a corpus
HELD_OUT = 0.4  # share of rows about pictures that `align` has not learned
TEXT_ONLY = 0.1
TURNS = (1, 2, 3, 4)  # questions of a conversation, each number as often
KINDS = {"what": 3, "describe": 1, "yes_no": 3, "which": 2, "colour": 1, "category": 1}


def pools(stored: Pictures) -> dict[str, list[list[dict]]]:
    """split -> the lines of each corpus of `SHARES` that are asked about."""
    tested = {noun for line in stored.lines if line["seen"] is False for noun in line["nouns"]}
    validation = [corpus for corpus in SHARES if corpus != "tuxpaint"]
    chosen = {"train": [stored.choose(MOST["train"], corpus=corpus, split="train") for corpus in SHARES], "val": []}
    for corpus in validation:
        lines = [x for x in stored.choose(len(stored.lines), corpus=corpus, split="val") if not tested & {*x["nouns"]}]
        chosen["val"].append(lines[: MOST["val"]])
    return chosen


def about(lines: Sequence[Sequence[dict]], names: NameIndex, rng: random.Random) -> dict:
    """Questions about a picture of a corpus, each corpus as often as its share says."""
    (own,) = rng.choices(lines, weights=[SHARES[each[0]["corpus"]] for each in lines])
    line = rng.choice(own)
    kinds = rng.choices(list(KINDS), weights=list(KINDS.values()), k=rng.choice(TURNS))
    asked = [training_question(line, names, rng, (kind,)) for kind in kinds]
    return {"image": f"pictures/{line['row']}.png"} | talk(*((each.question, each.answer) for each in asked))


def text_only(replies: Sequence[dict], recordings: Sequence[dict], rng: random.Random) -> dict:
    """A conversation without a picture."""
    if rng.random() < 0.5:
        said = rng.choice(recordings)
        return talk((quoted(said["said"]) + said["ask"], said["said"]))
    chosen = rng.choice(replies)
    return talk((chosen["ask"], chosen["reply"]))


def talk(*turns: tuple[str, str]) -> dict:
    """Questions and their answers as OpenAI's messages."""
    return {"messages": [{"role": role, "content": text} for turn in turns
                         for role, text in zip(("user", "assistant"), turn, strict=True)]}  # fmt: skip


def write(rows: Sequence[dict], path: Path, stored: Pictures) -> None:
    """The file of rows, and the pictures that they name."""
    by_row = {line["row"]: line for line in stored.lines}
    for name in dict.fromkeys(row["image"] for row in rows if "image" in row):
        target = path.parent / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.stem.isdigit() and not target.exists():
            stored.image(by_row[int(target.stem)]).save(target)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="output of prepare.py and replies.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    stored, rng = Pictures(args.data), random.Random(args.seed)
    training = [line for line in stored.lines if line["split"] == "train" and line["corpus"] in SHARES]
    sizes = Counter(line["corpus"] for line in training)
    names = NameIndex(training, [SHARES[line["corpus"]] / sizes[line["corpus"]] for line in training])
    replies, recordings = ([json.loads(x) for x in (args.data / f"{name}.jsonl").open()]
                           for name in ("replies", "recordings"))  # fmt: skip
    replies, lines = [each for each in replies if each["complete"]], pools(stored)
    rows = []
    for _ in range(args.rows):
        if rng.random() < TEXT_ONLY:
            rows.append(text_only(replies, recordings, rng))
        else:
            rows.append(about(lines["val" if rng.random() < HELD_OUT else "train"], names, rng))
    write(rows, args.out / "instruct.jsonl", stored)
    print(f"{len(rows)} rows about {len({row.get('image') for row in rows}) - 1} pictures")


if __name__ == "__main__":
    main()
