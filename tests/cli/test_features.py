"""Methods on features from the command line: train, go on, export, predict, evaluate, and what is refused."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from outcome import Outcome, is_one_line

import polymodal as pm
from polymodal.api.ray_workers import MARKS, Worker, work_of
from polymodal.check.evidence.dialoguernn import SMALL as DIALOGUES
from polymodal.check.evidence.self_mm import BERT
from polymodal.errors import ConfigError
from polymodal.evaluate.tasks import task_of
from polymodal.systems import get
from polymodal.systems.self_mm import published
from polymodal.weights.export import export_safetensors

Command = Callable[..., Outcome]
WIDTHS = {"text": 8, "audio": 4, "vision": 5}


def split(count: int, seed: int, classes: bool = False) -> dict[str, Any]:
    """Samples whose score can be heard and seen, as MMSA keeps them."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(-3, 3, count).astype(np.float32)
    table: dict[str, Any] = {
        name: rng.normal(size=(count, 6, width)).astype(np.float32) * 0.3 for name, width in WIDTHS.items()
    }
    for name in WIDTHS:
        table[name][..., 0] += score[:, None] / 3
    ids = rng.integers(5, 90, (count, 6))
    ids[:, 0], ids[:, 1] = 2, 5 + np.round((score + 3) * 14)
    mask = np.ones((count, 6))
    mask[::3, 4:] = 0
    table["text_bert"] = np.stack([ids * mask, mask, 0 * mask], 1).astype(np.float32)
    table["audio_lengths"] = table["vision_lengths"] = (3 + np.arange(count) % 4).tolist()
    table["regression_labels"] = (score > 0).astype(np.float32) if classes else score
    for name in "TAV":
        table[f"regression_labels_{name}"] = table["regression_labels"]
    return table | {"id": [f"v$_${i}" for i in range(count)], "raw_text": ["..."] * count}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    for name, classes in (("scores", False), ("classes", True)):
        (folder / name).mkdir()
        whole = {part: split(count, seed, classes) for part, count, seed in (("train", 40, 0), ("valid", 12, 1),
                                                                              ("test", 16, 2))}  # fmt: skip
        (folder / name / "features.pkl").write_bytes(pickle.dumps(whole, 4))
    (folder / "dialogues").mkdir()
    (folder / "dialogues" / "features.pkl").write_bytes(pickle.dumps(dialogues(), 2))
    return folder


def dialogues() -> tuple[Any, ...]:
    """conv-emotion's file of IEMOCAP, 12 dialogues."""
    rng = np.random.default_rng(0)
    sizes = {f"Ses0{i}": 3 + i % 4 for i in range(12)}
    labels = {key: rng.integers(0, 6, size).tolist() for key, size in sizes.items()}
    text = {key: [rng.normal(size=10) * 0.1 + np.eye(10)[label] * 2 for label in labels[key]] for key in sizes}
    other = {key: [rng.normal(size=3) for _ in range(size)] for key, size in sizes.items()}
    speakers = {key: [("M", "F")[i % 2] for i in range(size)] for key, size in sizes.items()}
    said = {key: ["..."] * size for key, size in sizes.items()}
    keys = list(sizes)
    return ({key: [] for key in keys}, speakers, labels, text, other, other, said, keys[:9], keys[9:])


SETTINGS = {
    "mtfn:lmf-sims": (
        "--set", "budget.steps=60", "--set", "budget.batch=16", "--set", 'objective.weights={"score": 1.0}',
        "--set", "optimizer.undecayed=[]", "--set", 'train=["text", "audio", "vision", "low_rank"]',
    ),
    "early-fusion-svm": ("--stage", "speaker-dependent"),
    "dialoguernn": ("--set", "budget.steps=60", "--set", "optimizer.lr=0.01"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("system", "data", "task", "metric", "above"),
    [
        ("mtfn:lmf-sims", "scores", "sentiment", "Corr", 0.5),
        ("early-fusion-svm", "classes", "labels", "accuracy", 0.8),
        ("dialoguernn", "dialogues", "labels", "accuracy", 0.5),
    ],
)
def test_train_export_predict_evaluate(
    polymodal: Command, place: Path, tmp_path: Path, system: str, data: str, task: str, metric: str, above: float
) -> None:
    run, model, features = tmp_path / "run", tmp_path / "model", place / data
    held = f"{features / 'features.pkl'}@test"
    start = small_dialogues(tmp_path / "start") if system == "dialoguernn" else system
    done = polymodal("train", start, "--data", features, "--evaluate", held, "--out", run, "--json", *SETTINGS[system])
    assert done.code == 0, done.err
    assert done.json["last_loss"] < done.json["first_loss"]
    assert ("begins from random ones" in done.err) is (start == system)
    assert polymodal("export", run, model).code == 0
    written = polymodal("predict", model, "--data", features, "--out", tmp_path / "said.jsonl")
    assert written.code == 0, written.err
    lines = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert len(lines) == (3 if data == "dialogues" else 16) and {"id", "prediction"} <= set(lines[0])
    found = polymodal("evaluate", model, "--task", task, "--data", held, "--out", tmp_path / "results", "--json")
    assert found.code == 0, found.err
    assert found.json["metrics"][metric]["value"] > above


def write(system: str, config: dict[str, Any], folder: Path) -> Path:
    """A checkpoint with random weights, as the published sizes are too large for a test."""
    spec = get(system).formats[0].model_spec(config)
    torch.manual_seed(0)
    folder.mkdir()
    export_safetensors(spec.build(), folder / "model.safetensors", spec.keys[0])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def small_dialogues(folder: Path) -> Path:
    return write("dialoguernn", {**DIALOGUES, "features": {"text": 10}, "classes": 6}, folder)


def test_self_mm_makes_labels_from_the_second_epoch_on(polymodal: Command, place: Path, tmp_path: Path) -> None:
    start = write("self-mm", published(4, 5, text_config={**BERT, "vocab_size": 100}), tmp_path / "start")
    settings = ("--set", "budget.batch=20", "--set", "budget.steps=8", "--save-every", "3")
    done = polymodal("train", start, "--data", place / "scores", "--evaluate", place / "scores", "--out",
                     tmp_path / "run", "--json", *settings)  # fmt: skip
    assert done.code == 0, done.err
    losses = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert losses[1]["text"] == 0 < losses[-1]["text"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["stage"]["objective"]["samples"] == 40


def test_a_method_begins_at_the_widths_of_the_data(place: Path, tmp_path: Path) -> None:
    folder = pm.begin("mtfn:lmf-sims", tmp_path / "start", [place / "scores"])
    config = json.loads((folder / "config.json").read_text())
    assert config["features"] == WIDTHS and config["seq_lens"] == {"text": 6, "audio": 6, "vision": 6}
    assert pm.begin("mtfn:lmf-sims", folder, [place / "scores"]) == folder
    with pytest.raises(ConfigError, match="holds another model"):
        pm.begin("mtfn:lmf-mosi", folder, [place / "scores"])
    with pytest.raises(ConfigError, match="is no method that begins from nothing"):
        pm.begin("llava-1.5", tmp_path / "other")
    assert pm.can_begin("self-mm") and not pm.can_begin("llava-1.5") and not pm.can_begin(folder)


def test_what_is_refused(polymodal: Command, place: Path, tmp_path: Path) -> None:
    whole = {"train": split(6, 0)}
    del whole["train"]["vision"]
    bad = tmp_path / "bad.pkl"
    bad.write_bytes(pickle.dumps(whole))
    refused = polymodal("train", "mtfn:lmf-sims", "--data", bad, "--out", tmp_path / "a")
    assert refused.code == 2 and "bad.pkl has no vision; mtfn takes text, audio, vision" in refused.err
    assert is_one_line(refused)
    whole["train"] = split(6, 0)
    whole["train"]["audio"][3, 1, 2] = np.nan
    bad.write_bytes(pickle.dumps(whole))
    refused = polymodal("train", "mtfn:lmf-sims", "--data", bad, "--out", tmp_path / "b")
    assert refused.code == 2 and "sample v$_$3: audio is nan at step 1, number 2" in refused.err
    held = place / "scores" / "features.pkl@test"
    refused = polymodal("train", "mtfn:lmf-sims", "--data", held, "--out", tmp_path / "c", "--set",
                        'objective.weights={"score": 1.0, "smile": 1.0}')  # fmt: skip
    assert refused.code == 2 and "no label of a file is called 'smile'" in refused.err
    refused = polymodal("predict", "mini", "--data", place / "scores")
    assert refused.code in (1, 2)


def test_a_worker_answers_from_features_what_one_process_answers(place: Path, tmp_path: Path) -> None:
    """As `evaluate --workers` asks them; Ray only deals the parts."""
    model = pm.load(small_dialogues(tmp_path / "model"))
    data, out, options = Path(f"{place / 'dialogues' / 'features.pkl'}@test"), tmp_path / "out", pm.EvaluateOptions()
    pm.measure(model, "labels", data, out=out, options=options)
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    (out / MARKS).mkdir()
    worker = Worker(work_of(model, task_of("labels"), data, out, options), workers=1)
    (said,) = worker({"part": [json.dumps(list(range(len(samples))))]})["lines"]
    assert [each["prediction"] for each in json.loads(said)["lines"]] == [each["prediction"] for each in samples]
