"""Training on other data than conversations: what each kind becomes, exact resumption, data of a wrong kind."""

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import polymodal as pm
from polymodal.api import training
from polymodal.api.training import TrainOptions
from polymodal.errors import ConfigError
from polymodal.train import checkpoint
from stage_folders import DATA, lines, picture, write_folder
from tiny_folders import tiny

SET = ["budget.batch=4", "budget.steps=4", "budget.precision=float32", "optimizer.lr=0.001",
       'schedule={"type": "Constant"}']  # fmt: skip
RUNS: list[tuple[str, str, str, list[str]]] = [  # the kinds of data: one, or several with " + " between
    ("clip", "contrastive", "image-text pairs", []),
    ("vit", "fine-tune", "labelled images", []),
    ("beit", "fine-tune", "labelled images", []),
    ("mult", "train", "labelled sequences", []),
    ("mult", "train", "features", []),
    ("mtfn", "train", "features", []),
    ("self-mm", "train", "features", ["objective.samples=12", "optimizer.lr=0.0001"]),
    ("early-fusion-svm", "speaker-dependent", "classes of features", ["budget.batch=12"]),
    ("albef", "pretrain", "image-text pairs", ["objective.queue=16", "objective.ramp_steps=4"]),
    ("albef:retrieval", "retrieval", "image-text pairs", ["objective.queue=16"]),
    ("blip:match", "filter", "image-text pairs", ["objective.queue=16"]),
    ("blip:caption", "captioner", "image-text pairs", []),
    ("blip:answer", "vqa", "conversations", []),
    ("beit:masked", "masked-pictures", "coded images", []),
    ("beit-3:retrieval", "retrieval", "image-text pairs", []),
    ("beit-3:answers", "vqa", "conversations", []),
    ("flava", "joint", "image-text pairs + images + text", []),
    ("vilt:pretrain", "pretrain", "image-text pairs", ["budget.max_length=40"]),
    ("vilt:vqa", "vqa", "conversations", []),
    ("blip-2:represent", "represent", "image-text pairs", []),
    ("internvl:contrastive", "contrastive", "image-text pairs", []),
    ("imagebind", "depth", "image-depth pairs", []),
    ("imagebind", "imu", "image-motion pairs", []),
    ("openflamingo", "interleaved", "conversations + image-text pairs", ["budget.batch=5"]),
    ("roboflamingo", "imitate", "robot trajectories", []),
    ("next-gpt", "decode", "signals", []),
    ("viscpm:paint", "paint", "image-text pairs", []),
    ("codi", "picture", "image-text pairs", ["budget.batch=2"]),
    ("emu3", "generate", "image-text pairs", ["budget.max_length=480"]),
    ("emu3", "prefer", "preferences", ["budget.max_length=480", "objective.supervised=0.5"]),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of each system, or a file of each kind of data, written once."""
    whole = tmp_path_factory.mktemp("stages")
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            (whole / "data").mkdir(exist_ok=True)
            made[name] = DATA[name](whole / "data") if name in DATA else write_folder(name, whole / name)
        return made[name]

    return get


def stopping_after(steps: int) -> Callable[[], bool]:
    calls = iter(range(1, 1000))
    return lambda: next(calls) >= steps


def run(folder: Path, data: Path | list[Path], out: Path, stage: str, more: list[str], **given: Any) -> list[float]:
    model = pm.load(folder, dtype="float32")
    options = TrainOptions(save_every=2, **given.pop("options", {}))
    return training.fit(
        model,
        data if isinstance(data, list) else [data],
        out=out,
        stage=stage,
        settings=[*SET, *more],
        options=options,
        **given,
    )


@pytest.mark.parametrize(("system", "stage", "kind", "more"), RUNS)
def test_a_stage_learns_from_its_kind_of_data_and_a_stopped_run_goes_on_bit_for_bit(
    place: Callable[[str], Path], tmp_path: Path, system: str, stage: str, kind: str, more: list[str]
) -> None:
    folder, data = place(system), [place(each) for each in kind.split(" + ")]
    held = {"options": {"evaluation_data": tuple(map(str, data))}}
    straight = run(folder, data, tmp_path / "a", stage, more, **held)
    first = run(folder, data, tmp_path / "b", stage, more, stop=stopping_after(2), **held)
    torch.manual_seed(99)
    _, second = training.resume(tmp_path / "b")
    assert len(straight) == 4 and len(first) == 2 and first + second == straight
    for name in ("model", "objective", "optimiser"):
        left, right = (
            load_file(checkpoint.complete(tmp_path / each)[-1] / f"{name}.safetensors") for each in ("a", "b")
        )
        assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left), name
    scores = [[line.get("evaluation") for line in map(json.loads, (tmp_path / each / "log.jsonl").open())][-1]
              for each in "ab"]  # fmt: skip
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("system", "stage", "row", "message"),
    [
        ("clip", "contrastive", {"question": "Who?", "answer": "me"}, "stage contrastive learns by contrastive: "
         "expected pictures with a caption each, found in .* conversations of text alone"),
        ("clip", "contrastive", {"image": "0.png", "question": "What?", "answer": "it"}, "conversations about image "
         r"\(has a question and an answer, not a caption\)"),
        ("clip", "contrastive", {"text": "words"}, r"text alone \(has no caption\)"),
        ("vit", "fine-tune", {"image": "0.png"}, r"expected pictures with a label each, found in .* image alone"),
        ("mult", "train", {"image": "0.png", "caption": "c"}, "expected sequences of features with a label each, found "
         r"in .* captions of image \(has no features\)"),
    ],
)  # fmt: skip
def test_data_of_a_wrong_kind_is_told_before_the_run(
    place: Callable[[str], Path], tmp_path: Path, system: str, stage: str, row: dict[str, Any], message: str
) -> None:
    picture(tmp_path, 0)
    data = lines(tmp_path / "a.jsonl", [row] * 5)
    with pytest.raises(ConfigError, match=message):
        run(place(system), data, tmp_path / "run", stage, [])
    assert not (tmp_path / "run").exists()


def test_a_picture_that_unpacks_to_gigabytes_and_one_that_is_gone_are_left_out_and_named(
    place: Callable[[str], Path], tmp_path: Path
) -> None:
    side = 30_000  # a bit a pixel: 110 KB, and 2.7 GB as colours
    header = side.to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00"
    whole = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes((side // 8 + 1) * side))), (b"IEND", b"")):
        whole += len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(whole)
    rows = [{"image": picture(tmp_path, number), "caption": f"colour {number}"} for number in range(6)]
    rows += [{"image": "bomb.png", "caption": "large"}, {"image": "gone.png", "caption": "gone"}]
    losses = run(place("clip"), lines(tmp_path / "a.jsonl", rows), tmp_path / "run", "contrastive", [])
    assert len(losses) == 4 and all(map(math.isfinite, losses))
    skipped = [json.loads(line)["sample"] for line in (tmp_path / "run" / "skipped.jsonl").open()]
    assert any("a.jsonl:7: " in each and "30000" in each for each in skipped), skipped
    assert any("a.jsonl:8: there is no file" in each for each in skipped)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (8, "label 8 is out of range: the model has 8 classes, 0 to 7"),
        ("class 77", r"label 'class 77' is none of the model's 8 classes; it knows 'class 7'"),
    ],
)
def test_labels_that_the_model_does_not_have_are_named(
    place: Callable[[str], Path], tmp_path: Path, label: Any, message: str
) -> None:
    rows = [{"image": picture(tmp_path, number), "label": label if number else 0} for number in range(6)]
    data = lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(ConfigError, match=f"damaged samples until step .*{message}"):
        run(place("vit"), data, tmp_path / "run", "fine-tune", [], options={"max_skipped": 2})


def test_what_compares_a_batch_is_not_cut(place: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="micro batch: this stage compares the samples of a batch"):
        run(place("clip"), place("image-text pairs"), tmp_path, "contrastive", [], options={"micro_batch": 2})


def test_preferences_of_low_rank_paths_go_on_bit_for_bit(place: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    tiny("llava-1.5", tmp_path / "model")
    data = place("preferred answers")
    more = ['objective={"type": "Preference", "beta": 0.2}', "budget.max_length=480", "optimizer.lr=0.01",
            'lora={"backbone.blocks": {"rank": 2, "alpha": 4, "dropout": 0.1}}']  # fmt: skip
    straight = run(tmp_path / "model", data, tmp_path / "a", "instruct-lora", more)
    first = run(tmp_path / "model", data, tmp_path / "b", "instruct-lora", more, stop=stopping_after(2))
    _, second = training.resume(tmp_path / "b")
    assert first + second == straight and straight[0] == pytest.approx(math.log(2), abs=0.05)
    assert straight[-1] < straight[0]
