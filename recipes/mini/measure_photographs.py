"""Ask `mini` about the test halves of the photographs, beside the plain ImageNet classifier.

    name        "What is in the picture?": right if a word of the answer is a right noun (photographs.py)
    classifier  the same for the first of the 1,000 class names of EfficientNet-Lite0 (central square of the picture)
    everyday    the same for that class's everyday word
    yes, no     "Is there a dog in the picture?" of a scene: its largest kind of thing, and one that is not in it
    boxes       of things of a scene that cover at least 2 % of it: share found (same kind, overlap of half), and share
                of the boxes given, of any size, that are right
Prints JSON: hits of n, of scenes with and without people and of things, and every answer.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import zipfile
from pathlib import Path

import torch
from lessons import bare, unknown_question
from photographs import COVERS, SCENE, Photograph, read_kinds, read_nouns, read_words, scene_boxes, scenes, things
from PIL import Image as Pillow
from wordings import CANNOT, NEAR, SEVERAL, WAYS

import polymodal as pm
from polymodal.evaluate.metrics import Proportion
from polymodal.pipelines.grounding import overlap
from polymodal.systems.mini.components import VIEWS

ASK = "What is in the picture?"
LABELS = "gradio/media_assets/data/imagenet_labels.json"


def hit(answer: str, nouns: frozenset[str]) -> bool:
    """Whether a word of the answer, or its singular, is a right noun."""
    words = set(re.findall("[a-z]+", answer.lower().replace("hot dog", "hotdog")))
    return bool((words | {word[:-1] for word in words if word.endswith("s")}) & {n.replace(" ", "") for n in nouns})


@torch.inference_mode()
def classified(model: pm.Model, picture: Pillow.Image) -> int:
    """The likeliest class of the central square."""
    trunk = model.module.encoders["image"].grid.trunk
    features = trunk(VIEWS.transforms["centre_values"](picture)[None])
    return int(trunk.classify(trunk.pool(features)).argmax())


def ask(model: pm.Model, photograph: Photograph, question: str) -> str:
    return model.chat(question, pm.image(str(photograph.path)), max_tokens=24).text


def with_article(word: str) -> str:
    plural = word in ("skis", "scissors")
    return word if plural else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def yes_and_no(photograph: Photograph, boxes: dict[str, float]) -> dict[str, str]:
    """A question for "yes" and one for "no"; boxes: kind -> share of the picture."""
    words = {kind.name: kind.word for kind in read_kinds()}
    absent = random.Random(photograph.key).choice(sorted(set(words) - set(boxes)))
    return {"yes": is_there(words[max(boxes, key=lambda name: boxes[name])]), "no": is_there(words[absent])}


def is_there(word: str) -> str:
    thing = with_article(word)
    return f"{'Are' if thing == word else 'Is'} there {thing} in the picture?"


def questions(model: pm.Model, photograph: Photograph, boxes: dict[str, float]) -> dict[str, bool]:
    """Whether "yes" and "no" are answered rightly; boxes: kind -> share of the picture."""
    asked = yes_and_no(photograph, boxes)
    return {right: ask(model, photograph, asked[right]).lower().startswith(right) for right in asked}


def shares(boxes: list[tuple[str, tuple[float, ...]]]) -> dict[str, float]:
    """Kind -> the share of the picture that its boxes cover together, where they overlap counted twice."""
    covers: dict[str, float] = {}
    for kind, box in boxes:
        covers[kind] = covers.get(kind, 0.0) + (box[2] - box[0]) * (box[3] - box[1])
    return covers


def matched(model: pm.Model, photograph: Photograph, boxes: list[tuple[str, tuple[float, ...]]]) -> dict[str, int]:
    """boxes: the right ones, (kind, box in 0..1) -> how many that are not tiny are there, found, given and right."""
    words = {kind.name: kind.word for kind in read_kinds()}
    given = model.ground("", str(photograph.path)).things
    pairs = [[words[kind] == thing.label and overlap(box, thing.box) >= 0.5 for thing in given] for kind, box in boxes]
    large = [(box[2] - box[0]) * (box[3] - box[1]) >= COVERS for _, box in boxes]
    return {"there": sum(large), "found": sum(any(row) for row, big in zip(pairs, large, strict=True) if big),
            "given": len(given), "right": sum(map(any, zip(*pairs, strict=True)))}  # fmt: skip


def several(model: pm.Model, photograph: Photograph, boxes: dict[str, float]) -> dict[str, int | str]:
    """What a scene is said to hold, in all; boxes: kind -> share of the picture."""
    said = ask(model, photograph, random.Random(photograph.key).choice(SEVERAL[1]))
    names = [name for name in re.split(", | and ", said.rstrip(".")) if name]
    nouns = read_nouns()
    large = [nouns.get(kind, frozenset({kind})) for kind, share in boxes.items() if share >= COVERS]
    return {"several": said, "named": len(names), "named right": sum(hit(name, photograph.nouns) for name in names),
            "kinds": len(large), "kinds named": sum(hit(said, kind) for kind in large)}  # fmt: skip


def unknown(model: pm.Model, photograph: Photograph, name: str) -> dict[str, bool | str]:
    """Whether "I cannot tell" is said to what nobody can tell, and to what can be told; name: of what is shown."""
    rng = random.Random(photograph.key)
    ways = [*NEAR[1], *WAYS["what"][1], *WAYS["describe"][1], *WAYS["colour"][1], *WAYS["yes_no"][1]]
    asked = {"unknown": unknown_question(None, name, 1, rng), "known": rng.choice(ways).format(f"a {name}")}
    found: dict[str, bool | str] = {}
    for kind, question in asked.items():
        said = ask(model, photograph, question)
        found |= {kind: said.startswith(CANNOT[:13]), f"{kind} question": question, f"{kind} answer": said}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, help="folder of COCO val2017")
    parser.add_argument("things", type=Path, help="folder with a photograph of each ImageNet class")
    parser.add_argument("--labels", type=Path, required=True, help="the gradio wheel, for the names of the classes")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    labels, words = json.loads(zipfile.ZipFile(args.labels).read(LABELS)), read_words()
    model, boxes = pm.load("mini"), scene_boxes(args.scenes)
    rows = []
    for photograph in (p for p in (*scenes(args.scenes), *things(args.things)) if p.test):
        index = classified(model, photograph.open())
        answers = {"mini": ask(model, photograph, ASK), "classifier": labels[index], "everyday": words[index]}
        row = {"picture": photograph.key, "kind": photograph.kind, "people": "person" in photograph.nouns, **answers}
        row |= {f"{name} hit": hit(answer, photograph.nouns) for name, answer in answers.items()}
        if photograph.kind == SCENE:
            own = boxes[photograph.key]
            covers = shares(own)
            row |= questions(model, photograph, covers) | matched(model, photograph, own)
            row |= several(model, photograph, covers)
        row |= unknown(model, photograph, bare(answers["mini"]))
        rows.append(row)
    print(json.dumps({**tables(rows), "answers": rows}, indent=1))


def tables(rows: list[dict]) -> dict:
    """Shares of right names by kind of photograph, of yes and no, boxes, several names and "I cannot tell"."""
    own = [row for row in rows if row["kind"] == SCENE]
    parts = {"scenes": own, "scenes with people": [r for r in own if r["people"]],
             "scenes without people": [r for r in own if not r["people"]],
             "one thing": [r for r in rows if r["kind"] != SCENE]}  # fmt: skip
    names = {kind: {name: str(Proportion(sum(r[f"{name} hit"] for r in part), len(part)))
                    for name in ("mini", "classifier", "everyday")} for kind, part in parts.items()}  # fmt: skip
    answers = {right: str(Proportion(sum(r[right] for r in own), len(own))) for right in ("yes", "no")}
    total = {key: sum(r[key] for r in own) for key in ("there", "found", "given", "right")}
    found = {"found": str(Proportion(total["found"], total["there"])),
             "right": str(Proportion(total["right"], total["given"]))}  # fmt: skip
    several = {"right": str(Proportion(sum(r["named right"] for r in own), sum(r["named"] for r in own))),
               "found": str(Proportion(sum(r["kinds named"] for r in own), sum(r["kinds"] for r in own)))}  # fmt: skip
    told = {kind: str(Proportion(sum(r[kind] for r in rows), len(rows))) for kind in ("unknown", "known")}
    return {"table": names, "questions": answers, "boxes": found, "several": several, "cannot tell": told}


if __name__ == "__main__":
    main()
