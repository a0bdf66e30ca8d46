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
from polymodal.check import multiway
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import (
    _viscpm_paint,
    albef,
    beit,
    beit_3,
    blip,
    blip_2,
    clip,
    codi,
    early_fusion_svm,
    emu3,
    flava,
    imagebind,
    internvl,
    mm_interleaved,
    modaverse,
    mtfn,
    mult,
    next_gpt,
    openflamingo,
    pali_x,
    roboflamingo,
    self_mm,
    vilt,
    viscpm,
    vit,
)
from polymodal.check.imagebind_lm import write_tiny_folder
from polymodal.generators import kl_codec
from polymodal.systems.next_gpt import SYSTEM as NEXT_GPT

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


def _emu3(folder: Path) -> Tiny:
    size = byte_tokenizer(folder, emu3.SPECIALS, bos=emu3.BOS, eos=emu3.EOS, pad="<pad>")
    config = emu3.small(size, emu3.SPECIALS.index("<image>"), emu3.SPECIALS.index(emu3.ROW_END))
    bounds = {"min_pixels": emu3.SIDE**2, "max_pixels": emu3.SIDE**2, "spatial_factor": 4}
    return Tiny(config, files={"preprocessor_config": bounds, "generation_config": {"eos_token_id": 4}})


def _imagebind(folder: Path) -> Tiny:
    byte_tokenizer(folder, {clip.START: 256, clip.END: 257}, bos=clip.START, eos=clip.END)
    return Tiny(imagebind.TINY)


def _internvl(folder: Path) -> Tiny:
    size = byte_tokenizer(folder, ("<unk>", "<s>", "</s>"), bos="<s>", eos="</s>", pad="<unk>")
    return Tiny(internvl.small_contrastive("InternVLModel", size), format=1)


def _openflamingo(folder: Path) -> Tiny:
    marks = {openflamingo.END: 256, openflamingo.IMAGE: 257, openflamingo.PAD: 258}
    return Tiny({**openflamingo.small(byte_tokenizer(folder, marks), 257), "eos_token_id": 256})


def _roboflamingo(folder: Path) -> Tiny:
    names = {roboflamingo.LAST: 0, roboflamingo.END: 257, roboflamingo.IMAGE: 258, roboflamingo.PAD: 259}
    return Tiny(roboflamingo.small(byte_tokenizer(folder, names), 258))


def _pali_x(folder: Path) -> Tiny:
    return Tiny(pali_x.small(byte_tokenizer(folder, pali_x.SPECIALS, eos="</s>", pad="<pad>")))


def _mm_interleaved(folder: Path) -> Tiny:
    own = mm_interleaved
    marks = {"<unk>": 0, own.FIRST: 1, own.LAST: 2, own.MARK: 259, own.IMAGE: 260}
    return Tiny(own.small(byte_tokenizer(folder, marks), 259))


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
    "mtfn": lambda folder: Tiny(mtfn.SMALL),
    "self-mm": lambda folder: Tiny(self_mm.SMALL),
    "early-fusion-svm": lambda folder: Tiny({**early_fusion_svm.SMALL, "vectors": COUNT}),
    "emu3": _emu3,
    "imagebind": _imagebind,
    "internvl:contrastive": _internvl,
    "openflamingo": _openflamingo,
    "roboflamingo": _roboflamingo,
    "pali-x": _pali_x,
    "mm-interleaved": _mm_interleaved,
}


def _next_gpt(folder: Path) -> None:
    write_tiny_folder(folder, NEXT_GPT, next_gpt.LAST, **next_gpt.COUNTS)


def _paint(folder: Path) -> None:
    words = viscpm.vocabulary(folder)
    torch.manual_seed(0)
    codec = kl_codec.parse_config({**_viscpm_paint.CODEC, "scaling_factor": 1.0}).build()
    config = _viscpm_paint.config_of(viscpm.small(words))
    _viscpm_paint.write_folder(folder, config, codec, {**_viscpm_paint.CODEC, "scaling_factor": 1.0})


def _bound(name: str, extra: tuple[str, ...] = ()) -> Callable[[Path], None]:
    return lambda folder: write_tiny_folder(folder, systems.get(name), extra)


def _beit_3(kind: str, **more: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        torch.manual_seed(0)
        config = beit_3.small(kind, **more)
        made = beit_3.spec(config)
        multiway.stored(folder, config, made, made.build(), CLASSES if kind == beit_3.ANSWERS else ())

    return write


WRITTEN: dict[str, Callable[[Path], None]] = {
    "codi": codi.write_tiny_folder,
    "next-gpt": _next_gpt,
    "viscpm:paint": _paint,
    "beit-3:retrieval": _beit_3(beit_3.RETRIEVAL),
    "beit-3:answers": _beit_3(beit_3.ANSWERS, num_labels=8),
    "pandagpt": _bound("pandagpt"),
    "modaverse": _bound("modaverse", (modaverse.BEGIN, modaverse.END, *modaverse.FLAGS)),
}


def write_folder(name: str, folder: Path) -> Path:
    """The system's folder with fresh weights, the same each time."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in WRITTEN:
        WRITTEN[name](folder)
        return folder
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


def feature_file(folder: Path) -> Path:
    """MMSA's arrays in an .npz file, two splits, sequences of unequal lengths."""
    arrays: dict[str, Any] = {}
    for split in ("train", "valid"):
        rng = np.random.default_rng(len(split))
        table: dict[str, Any] = {"id": np.array([f"{split}{number}" for number in range(COUNT)])}
        for name, width, steps in (("text", 27, 7), ("audio", 4, 9), ("vision", 12, 8)):
            table[name] = rng.normal(size=(COUNT, steps, width)).astype("float32")
            table[f"{name}_lengths"] = rng.integers(2, steps + 1, COUNT)
        ids = rng.integers(3, 20, (COUNT, 7))
        table["text_bert"] = np.stack((ids, np.ones_like(ids), np.zeros_like(ids)), 1)
        for name in ("", "_T", "_A", "_V"):
            table[f"regression_labels{name}"] = np.clip(rng.normal(size=COUNT), -1, 1)
        arrays |= {f"{split}/{name}": values for name, values in table.items()}
    np.savez(folder / "features.npz", **arrays)
    return folder / "features.npz"


def classes_of_features(folder: Path) -> Path:
    """A table of features with classes 0 and 1."""
    rng = np.random.default_rng(0)
    names = [
        f"{name}_{column}" for name, width in (("text", 27), ("audio", 4), ("vision", 12)) for column in range(width)
    ]
    rows = [",".join(["id", "label", *names])]
    for number in range(COUNT):
        for _ in range(1 + number % 3):
            rows.append(
                ",".join([str(number), str(number % 2), *(f"{value:.4f}" for value in rng.normal(size=len(names)))])
            )
    (folder / "features.csv").write_text("\n".join(rows))
    return folder / "features.csv"


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


def sensed(kind: str) -> Callable[[Path], Path]:
    """Pictures with another sense of them."""

    def write(folder: Path) -> Path:
        rows = []
        for number in range(COUNT):
            name = f"{number}.{kind}"
            if kind == "imu":
                name += ".npy"
                np.save(folder / name, np.random.default_rng(number).normal(size=(6, 50)).astype("float32"))
            else:
                name += ".png"
                Pillow.new("L", (32, 32), 20 * number).save(folder / name)
            rows.append({"image": picture(folder, number), kind: name})
        return lines(folder / f"{kind}.jsonl", rows)

    return write


def preferences(folder: Path) -> Path:
    """A picture that fits its prompt better than another."""
    rows = [
        {"prompt": f"colour {number}", "chosen": "<image>", "rejected": "<image>",
         "images": [picture(folder, number), picture(folder, (number + 1) % COUNT)]}
        for number in range(COUNT)
    ]  # fmt: skip
    return lines(folder / "preferences.jsonl", rows)


def chosen_answers(folder: Path) -> Path:
    """Answers in words, one of them worse, with what the question is about or without."""
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "<image>Which?"}], "images": [picture(folder, number)],
         "chosen": f"colour {number}", "rejected": "none"}
        if number % 2
        else {"prompt": "Who?", "chosen": [{"role": "assistant", "content": "me"}],
              "rejected": [{"role": "assistant", "content": "nobody at all"}]}
        for number in range(COUNT)
    ]  # fmt: skip
    return lines(folder / "answers.jsonl", rows)


def ways(folder: Path) -> Path:
    """What a robot did, of different lengths."""
    rows = []
    for number in range(COUNT):
        seen = [picture(folder, (number + step) % COUNT) for step in range(3 + number % 3)]
        actions = np.sign(np.random.default_rng(number).normal(size=(len(seen), 7))).tolist()
        rows.append({"instruction": "lift it", "images": seen, "gripper_images": seen[::-1], "actions": actions})
    return lines(folder / "ways.jsonl", rows)


def signals(folder: Path) -> Path:
    """Wishes for pictures, with what a text encoder says of each; some are answered in words."""
    rows: list[dict[str, Any]] = []
    for number in range(COUNT):
        np.save(folder / f"{number}.target.npy", np.random.default_rng(number).normal(size=(4, 768)).astype("float32"))
        rows.append(
            {"question": "A cat?", "answer": "Yes.<image>", "image": picture(folder, number),
             "signal_targets": {"image": f"{number}.target.npy"}}
            if number % 3
            else {"question": "Who?", "answer": "me"}
        )  # fmt: skip
    return lines(folder / "signals.jsonl", rows)


DATA: dict[str, Callable[[Path], Path]] = {
    "image-depth pairs": sensed("depth"),
    "image-thermal pairs": sensed("thermal"),
    "image-motion pairs": sensed("imu"),
    "preferences": preferences,
    "preferred answers": chosen_answers,
    "robot trajectories": ways,
    "signals": signals,
    "features": feature_file,
    "classes of features": classes_of_features,
    "images": pictures,
    "coded images": coded,
    "text": texts,
    "conversations": questions,
    "image-text pairs": captions,
    "labelled images": labelled,
    "labelled sequences": sequences,
}
