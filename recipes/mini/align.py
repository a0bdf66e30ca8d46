"""What stage `align` learns from: pictures with every name that is right, a file for each corpus.

    output of prepare.py, features.py and names.py -> OUT/views/ROW-VIEW.bmp, OUT/align-CORPUS.jsonl

    {"image": "views/17-3.bmp", "labels": ["cat", "kitten"]}

The augmented views are those of features.py, and what it computed of them goes into the folder of `polymodal train
--feature-cache`, which so has nothing to compute again.  `--weights` of that command mixes the files by `SHARES` of
conversations.py; the command is in the README.  What is there is not written again.
Trap: a step reads 256 views, so they are not compressed: a PNG takes ten times as long to decode.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from conversations import SHARES
from features import VIEWS, Stored, augment, load_encoder
from measure import Pictures
from PIL import Image as Pillow
from torch import Tensor

from polymodal.encoders.efficientnet import LITE0_SOURCE
from polymodal.systems.mini.components import IMAGE
from polymodal.train.feature_cache import Kept, weights_hash
from polymodal.weights.fetch import fetch


def keep(cache: Path, picture: Pillow.Image, features: Tensor) -> None:
    """Write what the encoder says of a picture where `polymodal train` looks for it."""
    Kept(cache, lambda values: features[None])(IMAGE(picture)[None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--feature-cache", type=Path, required=True, help="that of `polymodal train`")
    parser.add_argument("--most", type=int, help="pictures of a corpus; else all")
    args = parser.parse_args()
    stored, names = Pictures(args.data), set(json.loads((args.data / "names.json").read_text()))
    features, cache = Stored(args.data), args.feature_cache / weights_hash(load_encoder(fetch(LITE0_SOURCE)))
    (args.out / "views").mkdir(parents=True, exist_ok=True)
    for corpus in SHARES:
        lines = []
        for line in stored.choose(args.most or len(stored.lines), corpus=corpus, split="train"):
            right = [noun for noun in line["nouns"] if noun in names]
            for view in range(VIEWS.get(corpus, 1)) if right else ():
                path = args.out / "views" / f"{line['row']}-{view}.bmp"
                if not path.exists():
                    picture = Pillow.fromarray(augment(torch.tensor(stored.pixels(line)), line["id"], view).numpy())
                    keep(cache, picture, features.of(line["id"], view))
                    picture.save(path)
                lines.append(json.dumps({"image": f"views/{path.name}", "labels": right}) + "\n")
        (args.out / f"align-{corpus}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{corpus}: {len(lines)} views", flush=True)


if __name__ == "__main__":
    main()
