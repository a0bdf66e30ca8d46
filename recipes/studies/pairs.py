"""Pictures with their names and captions for `polymodal study`, out of what recipes/mini/prepare.py wrote, and orders
of drinks out of the raw folder that it read.

python recipes/studies/pairs.py --data DATA --raw RAW --out OUT      either alone writes its own files

OUT/names.jsonl      {"image", "text", "corpus"}: pictures whose name is one word, several pictures a name (fusion)
OUT/captions.jsonl   {"image", "text", "corpus"}: pictures with captions that differ (convergence)
OUT/drinks.jsonl     {"audio", "text", "corpus"}: people who order a drink, and its name (fusion)
OUT/pictures/        the pictures, 224 x 224
OUT/recordings/      the recordings, 16 kHz

Traps: the recordings are of more than fifty people, but the files do not say of whom, so a voice may be learned from
and held out; of orders of the same words one is taken, so that none is.  Iced drinks are left out: their names begin
alike.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("tuxpaint", "openclipart", "fluent", "noto", "openmoji", "quickdraw")
CAPTIONS = ("tuxpaint", "openclipart", "fluent")
SEED = 0
MINI = Path(__file__).resolve().parents[1] / "mini"


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


def ordered(raw: Path, most: int) -> list[dict]:
    """Recordings by the drink that each orders, `most` a drink at most, no two of the same words."""
    sys.path.insert(0, str(MINI))
    from corpora.speech import open_picovoice, picovoice_labels

    _, labels = picovoice_labels(raw)
    by_drink: dict[str, dict[str, Path]] = defaultdict(dict)
    for each in open_picovoice(raw):
        drink = labels[each.path.name]["slots"]["coffeeDrink"]
        if not drink.startswith("iced "):
            by_drink[drink].setdefault(each.key, each.path)
    generator, chosen = random.Random(SEED), []
    for drink, orders in sorted(by_drink.items()):
        paths = list(orders.values())
        generator.shuffle(paths)
        chosen += [{"path": path, "text": drink, "corpus": "picovoice"} for path in paths[:most]]
    return chosen


def write_recordings(raw: Path, out: Path, most: int) -> None:
    (out / "recordings").mkdir(parents=True, exist_ok=True)
    some = ordered(raw, most)
    with (out / "drinks.jsonl").open("w") as file:
        for record in some:
            path = f"recordings/{record['path'].name}"
            shutil.copyfile(record["path"], out / path)
            file.write(json.dumps({"audio": path, "text": record["text"], "corpus": record["corpus"]}) + "\n")
    print(f"drinks: {len(some)} recordings, {len({record['text'] for record in some})} texts")


def write_pictures(data: Path, out: Path, captions: int) -> None:
    records = [json.loads(line) for line in (data / "pictures.jsonl").read_text().splitlines()]
    pixels = np.load(data / "images.u8.npy", mmap_mode="r")
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    sets = {"names": named(records, least=40, most=60), "captions": captioned(records, captions)}
    for name, some in sets.items():
        with (out / f"{name}.jsonl").open("w") as file:
            for record in some:
                path = f"pictures/{record['row']}.png"
                if not (out / path).exists():
                    Image.fromarray(pixels[record["row"]]).save(out / path)
                file.write(json.dumps({"image": path, "text": record["text"], "corpus": record["corpus"]}) + "\n")
        print(f"{name}: {len(some)} pictures, {len({record['text'] for record in some})} texts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="what prepare.py wrote, for the pictures")
    parser.add_argument("--raw", type=Path, help="the folder of raw corpora, for the recordings")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--captions", type=int, default=1024)
    parser.add_argument("--recordings", type=int, default=40, help="of a drink at most")
    given = parser.parse_args()
    if given.data is None and given.raw is None:
        parser.error("expected --data, --raw or both")
    if given.data is not None:
        write_pictures(given.data, given.out, given.captions)
    if given.raw is not None:
        write_recordings(given.raw, given.out, given.recordings)


if __name__ == "__main__":
    main()
