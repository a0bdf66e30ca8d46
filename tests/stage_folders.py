"""A tiny folder in a published format for the systems that learn from other data than conversations, and data files of
each kind: what `polymodal train` is given for their stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow

from polymodal import systems
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import albef, beit, blip, blip_2, clip, flava, mult, vilt, vit

CLASSES = [f"class {number}" for number in range(8)]
COUNT = 12


@dataclass(frozen=True)
class Tiny:
    """config: of the folder.  format: its number in the record.  files: settings beside it."""

    config: dict[str, Any]
    format: int = 0
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _clip(folder: Path) -> Tiny:
    size = byte_tokenizer(folder, {clip.START: 256, clip.END: 257}, bos=clip.START, eos=clip.END)
    return Tiny(clip.tiny(size, 257), files={"preprocessor_config": {"size": {"shortest_edge": 32}, "crop_size": 32}})


BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]


def _words(folder: Path) -> int:
    return byte_tokenizer(folder, BERT, pad="[PAD]")


def _albef(kind: str) -> Callable[[Path], Tiny]:
    def make(folder: Path) -> Tiny:
        config = albef.small(kind)
        config["text_config"] |= {"vocab_size": _words(folder)}
        return Tiny(config)

    return make


def _blip(kind: str) -> Callable[[Path], Tiny]:
    def make(folder: Path) -> Tiny:
        config = blip.small(kind)
        config["text_config"] |= {"vocab_size": _words(folder), "bos_token_id": 5, "sep_token_id": 3}
        return Tiny(config, files={"preprocessor_config": {"size": {"height": 64, "width": 64}}})

    return make


def _flava(folder: Path) -> Tiny:
    config = flava.small()
    config["text_config"] |= {"vocab_size": _words(folder)}
    return Tiny(config, files={"preprocessor_config": {"size": {"height": 64, "width": 64}, "do_center_crop": False}})


def _vilt(kind: str, **more: Any) -> Callable[[Path], Tiny]:
    def make(folder: Path) -> Tiny:
        config = {**vilt.small(kind, **more), "vocab_size": _words(folder)}
        return Tiny(config, files={"preprocessor_config": {"size": {"shortest_edge": 64}, "size_divisor": 16}})

    return make


def _blip_2(folder: Path) -> Tiny:
    config = blip_2.small_retrieval()
    config["qformer_config"] |= {"vocab_size": _words(folder)}
    return Tiny(config, format=1, files={"preprocessor_config": {"size": {"height": 56, "width": 56}}})


FOLDERS: dict[str, Callable[[Path], Tiny]] = {
    "clip": _clip,
    "vit": lambda folder: Tiny(vit.tiny(CLASSES)),
    "beit": lambda folder: Tiny(beit.tiny(CLASSES), files={"preprocessor_config": {"size": 32}}),
    "beit:masked": lambda folder: Tiny(
        {**beit.MASKING, "architectures": [beit.MASKED]}, format=1, files={"preprocessor_config": {"size": 32}}
    ),
    "albef": _albef("pretrained"),
    "albef:retrieval": _albef("retrieval"),
    "blip:match": _blip(blip.MATCH),
    "blip:caption": _blip(blip.CAPTION),
    "blip:answer": _blip(blip.ANSWER),
    "flava": _flava,
    "vilt:pretrain": _vilt(vilt.MASKED),
    "vilt:vqa": _vilt(vilt.ANSWERS, id2label={str(i): name for i, name in enumerate(CLASSES)}),
    "blip-2:represent": _blip_2,
    "mult": lambda folder: Tiny(mult.SMALL),
}


def write_folder(name: str, folder: Path) -> Path:
    """The system's folder with fresh weights, the same each time."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny = FOLDERS[name](folder)
    write_config(folder, config=tiny.config, **tiny.files)
    spec = systems.get(name.partition(":")[0]).formats[tiny.format].model_spec(tiny.config)
    torch.manual_seed(0)
    write_weights(folder, spec.build(), spec.keys[0])
    return folder


def lines(path: Path, rows: Iterable[Any]) -> Path:
    """A .jsonl file."""
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def picture(folder: Path, number: int) -> str:
    """A picture of one colour; its name."""
    Pillow.new("RGB", (40, 30), (20 * number, 80, 200 - 10 * number)).save(folder / f"{number}.png")
    return f"{number}.png"


def captions(folder: Path) -> Path:
    """Pictures with a caption each, two of each picture."""
    rows = [
        {"image": picture(folder, number), "caption": f"colour {number}{more}", "image_id": number}
        for number in range(COUNT)
        for more in ("", " again")
    ]
    return lines(folder / "captions.jsonl", rows)


def labelled(folder: Path) -> Path:
    """Pictures of classes, by name or by number."""
    rows = [
        {"image": picture(folder, number), "label": CLASSES[number % 8] if number % 2 else number % 8}
        for number in range(COUNT)
    ]
    return lines(folder / "labelled.jsonl", rows)


def sequences(folder: Path) -> Path:
    """Features of three senses, of unequal lengths, with a score: in .npy files, or in the line itself."""
    rng, rows = np.random.default_rng(0), []
    for number in range(COUNT):
        features: dict[str, Any] = {}
        for name, width, steps in (("text", 27, 5 + number % 3), ("audio", 4, 9), ("vision", 12, 7)):
            values = rng.normal(size=(steps, width)).astype("float32")
            np.save(folder / f"{number}.{name}.npy", values)
            features[name] = f"{number}.{name}.npy" if number % 2 else values.tolist()
        rows.append({"features": features, "label": number / 6 - 1})
    return lines(folder / "sequences.jsonl", rows)


def coded(folder: Path) -> Path:
    """Pictures alone, with the ids of their patches."""
    rows = [{"image": picture(folder, number), "codes": [(number + patch) % 8 for patch in range(16)]}
            for number in range(COUNT)]  # fmt: skip
    return lines(folder / "coded.jsonl", rows)


def pictures(folder: Path) -> Path:
    """A folder of pictures alone."""
    (folder / "pictures").mkdir()
    for number in range(COUNT):
        picture(folder / "pictures", number)
    return folder / "pictures"


def texts(folder: Path) -> Path:
    """Texts alone."""
    return lines(folder / "texts.jsonl", [{"text": f"text {number} of many"} for number in range(COUNT)])


def questions(folder: Path) -> Path:
    """Questions about pictures, some answered by several people."""
    rows = [
        {"image": picture(folder, number), "question": "Which?"}
        | ({"answer": CLASSES[number % 8]} if number % 2 else {"answers": [CLASSES[number % 8]] * 3 + [CLASSES[0]]})
        for number in range(COUNT)
    ]
    return lines(folder / "questions.jsonl", rows)


DATA: dict[str, Callable[[Path], Path]] = {
    "images": pictures,
    "coded images": coded,
    "text": texts,
    "conversations": questions,
    "image-text pairs": captions,
    "labelled images": labelled,
    "labelled sequences": sequences,
}
