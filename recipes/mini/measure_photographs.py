"""Ask `mini` "What is in the picture?" about the test half of COCO128, beside the plain ImageNet classifier.

    hit         a word of the answer is a right noun of something that covers at least 2 % of the picture (`nouns.txt`)
    classifier  the same for the first of the 1,000 class names of EfficientNet-Lite0 (central square of the picture)
    everyday    the same for that class's everyday word
Prints JSON: hits of n, for pictures with and without people, and every answer.
"""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from pathlib import Path

import torch
from photographs import Photograph, photographs, read_words
from PIL import Image as Pillow

import polymodal as pm
from polymodal.evaluate.metrics import Proportion
from polymodal.systems.mini.components import IMAGE

ASK = "What is in the picture?"
LABELS = "gradio/media_assets/data/imagenet_labels.json"


def hit(answer: str, nouns: frozenset[str]) -> bool:
    """Whether a word of the answer, or its singular, is a right noun."""
    words = set(re.findall("[a-z]+", answer.lower().replace("hot dog", "hotdog")))
    return bool((words | {word[:-1] for word in words if word.endswith("s")}) & nouns)


@torch.inference_mode()
def classified(model: pm.Model, photograph: Photograph) -> int:
    """The likeliest class of the central square."""
    picture = Pillow.open(photograph.path).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    trunk = model.module.encoders["image"].trunk
    features = trunk(IMAGE(picture.crop((left, top, left + side, top + side)))[None])
    return int(trunk.classify(trunk.pool(features)).argmax())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="folder of COCO128")
    parser.add_argument("--labels", type=Path, required=True, help="the gradio wheel, for the names of the classes")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    labels, words = json.loads(zipfile.ZipFile(args.labels).read(LABELS)), read_words()
    model = pm.load("mini")
    rows = []
    for photograph in (p for p in photographs(args.photographs) if p.test):
        index = classified(model, photograph)
        said = model.chat(ASK, pm.image(str(photograph.path)), max_tokens=16).text
        answers = {"mini": said, "classifier": labels[index], "everyday": words[index]}
        rows.append({"picture": photograph.number, "people": "person" in photograph.nouns, **answers}
                    | {f"{name} hit": hit(answer, photograph.nouns) for name, answer in answers.items()})  # fmt: skip
    table = {}
    for kind, part in (("all", rows), ("people", [r for r in rows if r["people"]]),
                       ("no people", [r for r in rows if not r["people"]])):  # fmt: skip
        table[kind] = {name: str(Proportion(sum(r[f"{name} hit"] for r in part), len(part)))
                       for name in ("mini", "classifier", "everyday")}  # fmt: skip
    print(json.dumps({"table": table, "answers": rows}, indent=1))


if __name__ == "__main__":
    main()
