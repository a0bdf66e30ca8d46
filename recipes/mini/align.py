"""What stage `align` learns from: views of pictures with every name that is right, a file for each corpus.

    output of prepare.py, features.py and names.py -> OUT/views/ROW-VIEW.npy, OUT/align-CORPUS.jsonl

    {"image": "views/17-3.npy", "labels": ["cat", "kitten"]}

A view is what the frozen grid says of it, float16 [9, 1984], as features.py wrote it: a step of the stage reads 256 of
them, and to decode the pictures took four times as long as to learn from them.  `start.py:align` begins with these.
`polymodal train --weights` mixes the files by `SHARES` of conversations.py; the command is in the README.  What is
there is not written again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from conversations import SHARES
from features import VIEWS, Stored
from measure import Pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--most", type=int, help="pictures of a corpus; else all")
    args = parser.parse_args()
    pictures, names = Pictures(args.data), set(json.loads((args.data / "names.json").read_text()))
    stored = Stored(args.data)
    (args.out / "views").mkdir(parents=True, exist_ok=True)
    for corpus in SHARES:
        lines = []
        for line in pictures.choose(args.most or len(pictures.lines), corpus=corpus, split="train"):
            right = [noun for noun in line["nouns"] if noun in names]
            for view in range(VIEWS.get(corpus, 1)) if right else ():
                path = args.out / "views" / f"{line['row']}-{view}.npy"
                if not path.exists():
                    np.save(path, stored.half(line["id"], view))
                lines.append(json.dumps({"image": f"views/{path.name}", "labels": right}) + "\n")
        (args.out / f"align-{corpus}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{corpus}: {len(lines)} views", flush=True)


if __name__ == "__main__":
    main()
