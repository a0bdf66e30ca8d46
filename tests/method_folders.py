"""Tiny folders and data files of the stages that learn from what few systems do: regions, targets, emotions, signals.

As tests/stage_folders.py has them of the others.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymodal import systems
from polymodal.check import multiway, regions
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import (
    beit_3,
    beit_v2,
    c_mfn,
    dr_net,
    emu,
    gill,
    lwm,
    lxmert,
    mdl,
    mesm,
    minigpt_5,
    tombert,
    uniter,
    vilbert,
)
from polymodal.data.audio_writing import encode_sound
from polymodal.data.region_features import tsv_line
from polymodal.systems.beit_3.checkpoint import CAPTIONS
from polymodal.systems.lxmert.checkpoint import ANSWERS, PRETRAINING
from polymodal.systems.uniter.checkpoint import PRETRAINED as UNITER
from polymodal.systems.vilbert.checkpoint import PRETRAINED as VILBERT
from stage_folders import CLASSES, COUNT, lines, picture

REGIONS, CELLS, LETTERS = 5, 12, "abcdefghijkl"


def _regions(module: Any, kind: str, answers: bool = False) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        config = module.small(kind)
        spec = module.spec(config)
        torch.manual_seed(0)
        write_config(folder, config=config)
        regions.write_pieces(folder)
        if answers:
            (folder / "answers.json").write_text(json.dumps(CLASSES))
        write_weights(folder, spec.build(), spec.keys[0])

    return write


def _method(name: str, config: Mapping[str, Any], pieces: bool = False, format: int = 0) -> Callable[[Path], None]:
    """A method's folder with fresh weights; pieces: and word pieces of single letters."""

    def write(folder: Path) -> None:
        spec = systems.get(name).formats[format].model_spec(config)
        torch.manual_seed(0)
        write_config(folder, config=config)
        if pieces:
            regions.write_pieces(folder)
        write_weights(folder, spec.build(), spec.keys[0])

    return write


def _read(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The config with the vocabulary of the pieces."""
    return {**config, **more, "text_config": {**config["text_config"], "vocab_size": regions.VOCABULARY}}


def _gill(folder: Path) -> None:
    signals = [f"[IMG{number}]" for number in range(gill.TOKENS)]
    names = {"<pad>": 1, gill.BEGIN: 2, gill.CLS: 260, **{name: 261 + number for number, name in enumerate(signals)}}
    config = gill.small(byte_tokenizer(folder, names, bos=gill.BEGIN, eos=gill.BEGIN, pad="<pad>"))
    _method("gill", config)(folder)


def _stack(folder: Path) -> None:
    """BEiT-3 of as many patches as the tokenizer of BEiT v2 has."""
    multiway.write_bytes(folder)
    _method("beit-3", {**beit_3.small(CAPTIONS), "patch_size": 8})(folder)


def _lwm(folder: Path) -> None:
    size = byte_tokenizer(folder, lwm.SPECIALS, bos="<s>", eos="</s>", pad="<unk>")
    config = lwm.small(size)
    spec = systems.get("lwm").formats[lwm.VISION].model_spec(config)
    torch.manual_seed(0)
    write_config(folder, config=config)
    write_weights(folder, spec.build(), spec.keys[0])


SENTIMENTS = {"0": "negative", "1": "neutral", "2": "positive"}
WRITTEN: Mapping[str, Callable[[Path], None]] = {
    "vilbert": _regions(vilbert, VILBERT),
    "lxmert": _regions(lxmert, PRETRAINING, True),
    "lxmert:answers": _regions(lxmert, ANSWERS, True),
    "uniter": _regions(uniter, UNITER),
    "tombert": _method("tombert", _read(tombert.SMALL, id2label=SENTIMENTS), pieces=True),
    "mesm": _method("mesm", _read(mesm.SMALL, face=[3, 48, 48], spectrogram=[1, 128, 32]), pieces=True),
    "c-mfn": _method("c-mfn", c_mfn.SMALL),
    "dr-net": _method("dr-net", dr_net.SMALL),
    "mdl": _method("mdl", mdl.SMALL),
    "gill": _gill,
    "minigpt-5": minigpt_5.write_tiny_folder,
    "emu": emu.write_tiny_folder,
    "lwm": _lwm,
    "beit-v2": _method("beit-v2", beit_v2.masked()),
    "beit-v2:tokenizer": _method("beit-v2", beit_v2.tokenizer(), format=1),
    "beit-3:words": _stack,
}


def _found(number: int) -> dict[str, np.ndarray]:
    """What a detector says of one picture of 40 x 30 pixels."""
    rng = np.random.default_rng(number)
    corners = rng.uniform(0, 0.5, (REGIONS, 2))
    return {
        "features": rng.normal(size=(REGIONS, CELLS)).astype("float32"),
        "norm_bb": np.concatenate((corners, corners + rng.uniform(0.1, 0.5, (REGIONS, 2))), 1).astype("float32"),
        "conf": rng.uniform(size=REGIONS).astype("float32"),
        "soft_labels": rng.dirichlet(np.ones(8), REGIONS).astype("float32"),
        "objects_id": rng.integers(0, 8, REGIONS),
        "objects_conf": rng.uniform(size=REGIONS).astype("float32"),
        "attrs_id": rng.integers(0, 2, REGIONS),
        "attrs_conf": rng.uniform(size=REGIONS).astype("float32"),
    }


def region_captions(folder: Path) -> Path:
    """A .npz file a picture, with all that a detector may say."""
    for number in range(COUNT):
        np.savez(folder / f"{number}.npz", **_found(number))
    rows = [{"regions": f"{number}.npz", "caption": f"colour {LETTERS[number % 6]}"} for number in range(COUNT)]
    return lines(folder / "regions.jsonl", rows)


def lxmert_regions(folder: Path) -> Path:
    """Questions and captions about pictures whose regions lie in one .tsv file with LXMERT's columns."""
    sides, made = np.array([40, 30, 40, 30], "float32"), []
    for number in range(COUNT):
        found = _found(number)
        names = ("objects_id", "objects_conf", "attrs_id", "attrs_conf")
        cells = [base64.b64encode(found[name].tobytes()).decode() for name in names]
        boxes, feats = (
            base64.b64encode(each.tobytes()).decode() for each in (found["norm_bb"] * sides, found["features"])
        )
        made.append("\t".join((f"COCO_{number}", "30", "40", *cells, str(REGIONS), boxes, feats)))
    (folder / "lxmert.tsv").write_text("\n".join(made) + "\n")
    rows = [
        {"regions": "lxmert.tsv", "image_id": f"COCO_{number}"}
        | (
            {"question": "which?", "answer": CLASSES[number % 8]}
            if number % 2
            else {"caption": f"colour {LETTERS[number]}"}
        )
        for number in range(COUNT)
    ]
    return lines(folder / "lxmert.jsonl", rows)


def region_questions(folder: Path) -> Path:
    """Questions about pictures whose regions lie in one .tsv file of bottom-up attention; VQA's ten answers."""
    made = []
    for number in range(COUNT):
        found = _found(number)
        boxes = found["norm_bb"] * np.array([40, 30, 40, 30], "float32")
        made.append(tsv_line(str(number), (40, 30), boxes, found["features"]))
    (folder / "regions.tsv").write_text("".join(made))
    rows = [
        {
            "regions": "regions.tsv",
            "image_id": number,
            "question": "which?",
            "answers": [CLASSES[number % 8]] * 3 + ["x"],
        }
        for number in range(COUNT)
    ]
    return lines(folder / "region-questions.jsonl", rows)


def tweets(folder: Path) -> Path:
    """Pictures with a text and a target in it; sentiments by name or by number."""
    rows = [
        {"image": picture(folder, number), "text": f"$T$ {LETTERS[number]} day", "target": LETTERS[: 1 + number % 3],
         "label": SENTIMENTS[str(number % 3)] if number % 2 else number % 3}
        for number in range(COUNT)
    ]  # fmt: skip
    return lines(folder / "tweets.jsonl", rows)


def clips(folder: Path) -> Path:
    """Sentences with one face or two and a sound; emotions by number, by name with a strength, or 0 and 1."""
    rows = []
    for number in range(COUNT):
        time = np.arange(1600 * (2 + number % 3)) / 16_000
        sound = np.sin(6.28 * 100 * (number + 1) * time).astype("float32") / 2
        (folder / f"{number}.wav").write_bytes(encode_sound(sound, 16_000, "wav"))
        told: list[Any] = [[number % 3], {"0": 0.0, "2": 1.5}, [0, 1, number % 2]]
        faces = [picture(folder, (number + more) % COUNT) for more in range(1 + number % 2)]
        rows.append({"text": f"word {LETTERS[number]}", "images": faces, "audio": f"{number}.wav",
                     "labels": [str(told[0][0])] if number % 3 == 0 else told[number % 3]})  # fmt: skip
    return lines(folder / "clips.jsonl", rows)


def jokes(folder: Path) -> Path:
    """Punchlines, most of them behind some sentences, longer than the model reads."""
    rng, rows = np.random.default_rng(0), []
    for number in range(COUNT):
        features: dict[str, Any] = {}
        for name, width in c_mfn.SMALL["features"].items():
            values = rng.normal(size=(3 + number, width)).astype("float32")
            np.save(folder / f"{number}.{name}.npy", values)
            features[name] = f"{number}.{name}.npy"
            if number % 4:
                features[f"context_{name}"] = rng.normal(size=(number % 4 + 1, 4, width)).round(3).tolist()
        rows.append({"features": features, "label": number % 2})
    return lines(folder / "jokes.jsonl", rows)


def vectors(config: Mapping[str, Any], words: Mapping[str, int]) -> Callable[[Path], Path]:
    """Vectors by name, with a class; words: those that are sequences, and of how many steps at least."""

    def write(folder: Path) -> Path:
        rng, rows = np.random.default_rng(0), []
        for number in range(COUNT):
            shapes = {name: (words[name] + number % 3, width) if name in words else (width,)
                      for name, width in config["features"].items()}  # fmt: skip
            rows.append({"features": {name: rng.normal(size=shape).round(3).tolist() for name, shape in shapes.items()},
                         "label": number % 2})  # fmt: skip
        return lines(folder / f"{config['model_type']}.jsonl", rows)

    return write


def spoken(folder: Path) -> Path:
    """Pictures with captions, and what a text encoder says of each."""
    rows = []
    for number in range(COUNT):
        vector = np.random.default_rng(number).normal(size=(gill.QUERIES, gill.WIDTH))
        rows.append({"image": picture(folder, number), "caption": f"colour {LETTERS[number]}",
                     "signal_targets": vector.round(3).tolist()})  # fmt: skip
    return lines(folder / "spoken.jsonl", rows)


def drawn(folder: Path) -> Path:
    """Wishes for pictures, some answered in words; what a text encoder says of them and of nothing; some latents."""
    draw = np.random.default_rng(0)
    empty = draw.normal(size=(minigpt_5.QUERIES, minigpt_5.WIDTH)).round(3).tolist()
    rows: list[dict[str, Any]] = []
    for number in range(COUNT):
        vector = draw.normal(size=(minigpt_5.QUERIES, minigpt_5.WIDTH)).round(3).tolist()
        asked = {"question": "then?", "answer": f"{LETTERS[number]} <image>", "image": picture(folder, number),
                 "signal_targets": vector, "empty_target": empty}  # fmt: skip
        if number == 1:
            asked["latents"] = draw.normal(size=(4, 8, 8)).round(3).tolist()
        rows.append(asked if number % 4 else {"question": "who?", "answer": "me"})
    return lines(folder / "drawn.jsonl", rows)


def stories(folder: Path) -> Path:
    """A picture is shown, and the next one asked for, without captions."""
    rows = [
        {"messages": [{"role": "user", "content": "<image>next?"}, {"role": "assistant", "content": "so <image>"}],
         "images": [picture(folder, number), picture(folder, (number + 1) % COUNT)]}
        for number in range(COUNT)
    ]  # fmt: skip
    return lines(folder / "stories.jsonl", rows)


def taught(folder: Path) -> Path:
    """Pictures with what a teacher says of each of 8 x 8 patches."""
    rows = []
    for number in range(4):
        np.save(folder / f"{number}.teacher.npy", np.random.default_rng(number).normal(size=(64, 18)).astype("float32"))
        rows.append({"image": picture(folder, number), "teacher_features": f"{number}.teacher.npy"})
    return lines(folder / "taught.jsonl", rows)


DATA: Mapping[str, Callable[[Path], Path]] = {
    "regions with captions": region_captions,
    "LXMERT's regions": lxmert_regions,
    "regions with questions": region_questions,
    "tweets with targets": tweets,
    "clips of speech": clips,
    "punchlines": jokes,
    "tweets as features": vectors(dr_net.SMALL, {"text": 4, "pairs": 2}),
    "captions with signals": spoken,
    "wishes for pictures": drawn,
    "stories": stories,
    "taught pictures": taught,
    "users as features": vectors(mdl.SMALL, {}),
}
