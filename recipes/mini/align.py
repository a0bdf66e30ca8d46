"""What stage `align` learns from: pictures with every name that is right, a file for each corpus.

    output of prepare.py and names.py -> OUT/views/ROW-VIEW.png, OUT/align-CORPUS.jsonl

    {"image": "views/17-3.png", "labels": ["cat", "kitten"]}

The augmented views are those of features.py.  `polymodal train --weights` mixes the files by `SHARES` of
conversations.py; the command is in the README.  What is there is not written again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from conversations import SHARES
from features import VIEWS, augment
from measure import Pictures
from PIL import Image as Pillow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--most", type=int, help="pictures of a corpus; else all")
    args = parser.parse_args()
    stored, names = Pictures(args.data), set(json.loads((args.data / "names.json").read_text()))
    (args.out / "views").mkdir(parents=True, exist_ok=True)
    for corpus in SHARES:
        lines = []
        for line in stored.choose(args.most or len(stored.lines), corpus=corpus, split="train"):
            right = [noun for noun in line["nouns"] if noun in names]
            for view in range(VIEWS.get(corpus, 1)) if right else ():
                path = args.out / "views" / f"{line['row']}-{view}.png"
                if not path.exists():
                    pixels = torch.tensor(stored.pixels(line))
                    Pillow.fromarray(augment(pixels, line["id"], view).numpy()).save(path)
                lines.append(json.dumps({"image": f"views/{path.name}", "labels": right}) + "\n")
        (args.out / f"align-{corpus}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{corpus}: {len(lines)} views", flush=True)


if __name__ == "__main__":
    main()
