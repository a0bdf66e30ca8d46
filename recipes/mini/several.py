"""What stage `several` learns from: several names in one answer, and "I cannot tell" where mini cannot.

    python recipes/mini/several.py DATA SCENES THINGS OUT      -> OUT/pictures/*, OUT/several.jsonl

    own        the model's own answers to the questions that it was trained for, so that they stay as they are
    several    its own first name, then the kinds of things whose chance is `LISTED` or more (there.py)
    unknown    counting, reading, who, where, ... (UNKNOWN in wordings.py) -> "I cannot tell that from the picture."

Pictures: those of there.py, and pairs of scenes beside each other, which hold more things than most photographs do.
Every `KEPT`-th picture goes into OUT/kept.jsonl instead, to look at.  No test picture and no test wording is used.
Asking takes the time; the answers are kept in OUT/own.json.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from conversations import talk
from lessons import article, bare, listed, own_questions, together, unknown_question
from measure import Pictures
from photographs import SCENE, THING, Picture, read_kinds, scenes, things
from PIL import Image as Pillow
from questions import NameIndex
from there import Shown, pictures
from wordings import CANNOT, SEVERAL

import polymodal as pm
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.train.feature_cache import cached_features

PAIR, PAIRS, SIDE = "pair", 60, 384
KEPT = 6
KINDS = {"own": 7, "several": 3, "unknown": 1.8}
SHARES = {SCENE: 2.5, PAIR: 2.0, THING: 2.0}  # of the kinds of pictures; 1 elsewhere


def beside(one: Picture, other: Picture) -> Picture:
    """Two pictures of one height beside each other."""
    parts = [each.resize((max(1, round(each.width * SIDE / each.height)), SIDE)) for each in (one, other)]
    joined = Pillow.new("RGB", (sum(each.width for each in parts), SIDE))
    joined.paste(parts[0], (0, 0))
    joined.paste(parts[1], (parts[0].width, 0))
    return joined


def written(shown: Sequence[Shown], stored: Pictures, folder: Path) -> Iterator[tuple[Shown, Path]]:
    """Each picture and its file; the pairs come last."""
    folder.mkdir(parents=True, exist_ok=True)
    own = [each for each in shown if each.kind == SCENE]
    rng = random.Random(0)
    for each in shown:
        path = folder / f"{each.line['row'] if each.line else each.source.path.stem}.png"
        if not path.exists():
            each.open(stored).save(path)
        yield each, path
    for number in range(PAIRS):
        one, other = rng.sample(own, 2)
        path = folder / f"pair-{number}.png"
        if not path.exists():
            beside(one.open(stored), other.open(stored)).save(path)
        yield Shown(kind=PAIR, nouns=one.nouns | other.nouns), path


@torch.inference_mode()
def there(model: pm.Model, path: Path) -> list[float]:
    """The chance of each kind of thing in a picture."""
    connector = model.module.connectors["image"]
    batch = model.processor([[{"role": "user", "content": [pm.image(str(path)), "-"]}]], generate=True)
    features = model.module.encoded("image", batch)
    summary = connector.summary(features)
    chances = connector.there(features, summary, connector.log_probs(features, summary))
    return chances[0, connector.everyday.thing_of].tolist()


@torch.inference_mode()
def answers(model: pm.Model, asked: Sequence[tuple[Path, str]], size: int = 24) -> list[str]:
    """What the model says, greedily."""
    found: list[str] = []
    ends = DecodingConstraints(tokenizer=model.processor.tokenizer)
    for first in range(0, len(asked), size):
        part = asked[first : first + size]
        talks = [[{"role": "user", "content": [pm.image(str(path)), question]}] for path, question in part]
        said = generate(model.module, model.processor(talks, generate=True), SamplingOptions(max_tokens=16), ends)
        found += [each.text.strip() for each in said]
        print(f"asked {len(found)} of {len(asked)}", flush=True)
    return found


def own_answers(model: pm.Model, every: Sequence[tuple[Shown, Path]], chances: Sequence[Sequence[float]]) -> list:
    """Of each picture, questions with the model's answers; the first of them asks what it is."""
    names, kinds, rng = (
        NameIndex([x.line for x, _ in every if x.line]),
        [k.word for k in read_kinds()],
        random.Random(0),
    )
    asked = []
    for (each, _), chance in zip(every, chances, strict=True):
        found = [kinds[index] for index in torch.tensor(chance).topk(3).indices.tolist()]
        first = found[0] if each.line is None else each.line["nouns"][0]
        asked.append(own_questions(each.line, names, [first, *found], rng))
    flat = [(path, ask) for (_, path), asks in zip(every, asked, strict=True) for ask in asks]
    said = iter(answers(model, flat))
    return [[(ask, next(said)) for ask in asks] for asks in asked]


def lesson(each: Shown, own: Sequence[tuple[str, str]], chances: Sequence[float], rng: random.Random) -> dict:
    """One question about a picture, and what is answered."""
    (kind,) = rng.choices(list(KINDS), weights=list(KINDS.values()))
    if kind == "several":
        return talk((rng.choice(SEVERAL[0]), together(listed(article(own[0][1]), chances))))
    if kind == "unknown":
        return talk((unknown_question(each.line, bare(own[0][1]), 0, rng), CANNOT))
    return talk(tuple(rng.choice(own)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="output of prepare.py")
    parser.add_argument("scenes", type=Path, help="folder of COCO val2017")
    parser.add_argument("things", type=Path, help="folder with a photograph of each ImageNet class")
    parser.add_argument("out", type=Path)
    parser.add_argument("--feature-cache", type=Path, required=True, help="may be that of `polymodal train`")
    parser.add_argument("--rows", type=int, default=1280)
    args = parser.parse_args()
    stored, model = Pictures(args.data), pm.load("mini", dtype="float32")
    model.module.requires_grad_(False)
    every = list(written(pictures(stored, [*scenes(args.scenes), *things(args.things)]), stored, args.out / "pictures"))
    with cached_features(model.module, args.feature_cache):
        chances = [there(model, path) for _, path in every]
        file = args.out / "own.json"
        if not file.exists():
            file.write_text(json.dumps(own_answers(model, every, chances), indent=0))
    own, rng = json.loads(file.read_text()), random.Random(3)
    weights = [SHARES.get(each.kind, 1.0) / sum(x.kind == each.kind for x, _ in every) for each, _ in every]
    rows: dict[str, list[dict]] = {"several": [], "kept": []}
    while len(rows["several"]) < args.rows:
        (index,) = rng.choices(range(len(every)), weights=weights)
        each, path = every[index]
        told = lesson(each, own[index], chances[index], rng)
        rows["several" if index % KEPT else "kept"].append({"image": f"pictures/{path.name}"} | told)
    for name, lines in rows.items():
        (args.out / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
