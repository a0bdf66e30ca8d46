"""Pictures with their names and captions for `polymodal study`, out of what recipes/mini/prepare.py wrote.

python recipes/studies/pairs.py --data DATA --out OUT

OUT/names.jsonl      {"image", "text", "corpus"}: pictures whose name is one word, several pictures a name (fusion)
OUT/captions.jsonl   {"image", "text", "corpus"}: pictures with captions that differ (convergence)
OUT/pictures/        the pictures, 224 x 224
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("tuxpaint", "openclipart", "fluent", "noto", "openmoji", "quickdraw")
CAPTIONS = ("tuxpaint", "openclipart", "fluent")
SEED = 0


def named(records: list[dict], least: int, most: int) -> list[dict]:
    """Pictures of names of one word, `least` pictures a name at least, `most` at most."""
    by_name: dict[str, list[dict]] = defaultdict(list)
    for record in records:
        if record["corpus"] in NAMES and record["nouns"] and " " not in record["nouns"][0]:
            by_name[record["nouns"][0].lower()].append(record)
    generator = random.Random(SEED)
    chosen = []
    for name, some in sorted(by_name.items()):
        if len(some) >= least:
            generator.shuffle(some)
            chosen += [{**record, "text": name} for record in some[:most]]
    return chosen


def captioned(records: list[dict], count: int) -> list[dict]:
    """`count` pictures of different captions."""
    generator, found = random.Random(SEED), {}
    for record in sorted(records, key=lambda record: record["id"]):
        if record["corpus"] in CAPTIONS and record["caption"]:
            found.setdefault(record["caption"].lower(), {**record, "text": record["caption"]})
    return generator.sample(sorted(found.values(), key=lambda record: record["id"]), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--captions", type=int, default=1024)
    given = parser.parse_args()
    records = [json.loads(line) for line in (given.data / "pictures.jsonl").read_text().splitlines()]
    pixels = np.load(given.data / "images.u8.npy", mmap_mode="r")
    (given.out / "pictures").mkdir(parents=True, exist_ok=True)
    sets = {"names": named(records, least=40, most=60), "captions": captioned(records, given.captions)}
    for name, some in sets.items():
        with (given.out / f"{name}.jsonl").open("w") as file:
            for record in some:
                path = f"pictures/{record['row']}.png"
                if not (given.out / path).exists():
                    Image.fromarray(pixels[record["row"]]).save(given.out / path)
                file.write(json.dumps({"image": path, "text": record["text"], "corpus": record["corpus"]}) + "\n")
        print(f"{name}: {len(some)} pictures, {len({record['text'] for record in some})} texts")


if __name__ == "__main__":
    main()
