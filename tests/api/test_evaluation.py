"""Measuring a model on a person's data: what a run keeps, how it goes on, what it refuses."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

import polymodal as pm
from polymodal.api import evaluation
from polymodal.api.evaluation import EvaluateOptions, measure
from polymodal.errors import ConfigError, StorageError, UnknownName
from polymodal.evaluate.metric import Metric, Scored, all_measured, as_they_are, measured, quotient
from polymodal.evaluate.task import Task
from polymodal.evaluate.tasks import TASKS
from tiny_folders import tiny


def letters(samples: Sequence[Scored]) -> np.ndarray:
    """How many of the answer's letters are an "a", and all of them."""
    return np.array([[str(each.prediction).count("a"), len(str(each.prediction))] for each in samples])


WHOLE = {"image": "0.png", "question": "?", "answer": "a"}
TALK = Task(
    name="talk",
    summary="answers",
    verb="chat",
    media=("image",),
    fields=("question", "answer"),
    prompt="{question} Say {answer}.",
    metrics=(Metric(name="letters", rows=letters, total=quotient),),
    max_tokens=5,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA-1.5, and data with one picture that is not there."""
    place = tmp_path_factory.mktemp("place")
    (place / "model").mkdir()
    tiny("llava-1.5", place / "model")
    rows = []
    for number in range(7):
        Pillow.new("RGB", (20, 30), (30 * number, 80, 90)).save(place / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "Which " * (number + 1), "answer": "a"})
    rows[4]["image"] = "gone.png"
    (place / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


@pytest.fixture(scope="module")
def model(place: Path) -> pm.Model:
    return pm.load(place / "model")


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "samples.jsonl").open()]


def test_answers_are_those_of_chat_and_what_is_missing_is_named(place: Path, model: pm.Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = measure(model, TALK, place / "a.jsonl", out=out, options=EvaluateOptions(batch=3))
    assert found.n == 6 and len(found.skipped) == 1 and "gone.png" in found.skipped[0]
    for line in lines(out):
        if "skipped" in line:
            continue
        question = "Which " * (line["index"] + 1) + " Say a."
        alone = model.chat(pm.image(place / f"{line['index']}.png"), question, max_tokens=5, temperature=0.0)
        assert line["prompt"] == question and line["prediction"] == alone.text.strip()
    result = json.loads((out / "result.json").read_text())
    assert result["metrics"]["letters"]["value"] == found.metrics[0].value and result["n"] == 6
    page = (out / "report.html").read_text()
    assert page.count("<img ") == 6 and "gone.png" in page and "script" not in page


def test_a_killed_run_answers_only_what_is_missing(
    place: Path, model: pm.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "out", EvaluateOptions(batch=2)
    whole = measure(model, TALK, place / "a.jsonl", out=tmp_path / "whole", options=options)
    seen: list[int] = []

    def kill(count: int, total: int) -> None:
        seen.append(count)
        if count == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, TALK, place / "a.jsonl", out=out, options=options, done=kill)
    with (out / "samples.jsonl").open("a") as file:
        file.write('{"index": 4, "predi')  # a line that was cut off
    asked: list[int] = []
    real = evaluation.answer_batch
    monkeypatch.setattr(evaluation, "answer_batch", lambda some, how: (asked.extend(some), real(some, how))[1])
    found = measure(model, TALK, place / "a.jsonl", out=out, options=options)
    assert set(asked) == {4, 5, 6} and found.as_dict() == whole.as_dict() and lines(out) == lines(tmp_path / "whole")


def test_another_run_is_not_written_over(place: Path, model: pm.Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    measure(model, TALK, place / "a.jsonl", out=out, options=EvaluateOptions(limit=1))
    before = (out / "samples.jsonl").read_bytes()
    for options in (EvaluateOptions(limit=2), EvaluateOptions(limit=1, prompt="{question}")):
        with pytest.raises(ConfigError, match=r"holds another evaluation .*name another folder"):
            measure(model, TALK, place / "a.jsonl", out=out, options=options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("!")
    with pytest.raises(ConfigError, match="is not empty and holds no evaluation"):
        measure(model, TALK, place / "a.jsonl", out=tmp_path / "mine")
    assert (out / "samples.jsonl").read_bytes() == before
    (out / "samples.jsonl").write_text("no json\n")
    with pytest.raises(ConfigError, match=r"samples.jsonl:1 is damaged; remove"):
        measure(model, TALK, place / "a.jsonl", out=out, options=EvaluateOptions(limit=1))


def test_predictions_that_are_there_are_scored(place: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.jsonl"
    given.write_text("\n".join(json.dumps({"prediction": word}) for word in ["aa", "ab", "ba", "bb", "c", "aaa", "x"]))
    found = measure(None, TALK, place / "a.jsonl", out=tmp_path / "out", predictions=given)
    assert found.n == 7 and found.metrics[0].value == pytest.approx(7 / 13) and found.model == "predictions"
    given.write_text('{"prediction": "a"}\n{"text": "b"}')
    with pytest.raises(ConfigError, match=r"given.jsonl has 2 predictions for the 7 samples"):
        measure(None, TALK, place / "a.jsonl", out=tmp_path / "b", predictions=given)
    with pytest.raises(ConfigError, match=r"given.jsonl:2 has no prediction"):
        measure(None, TALK, place / "a.jsonl", out=tmp_path / "c", predictions=given, options=EvaluateOptions(limit=2))


@pytest.mark.parametrize(
    ("record", "options", "words"),
    [
        ({"image": "0.png", "answer": "a"}, {}, "a.jsonl:1 lacks question, which talk needs; it has the keys"),
        ([1], {}, "expected an object with keys, found list"),
        (WHOLE, {"prompt": "{who}"}, r"names \{who\}, which the data has not"),
        (WHOLE, {"prompt": "{question.__class__}"}, r"names \{question.__class"),
        (WHOLE, {"prompt": "{"}, "cannot be filled in"),
        (WHOLE | {"image": "no.png"}, {}, "none of the 1 samples could be read"),
        (WHOLE | {"image": "no.png"}, {"max_skipped": 0}, "1 samples could not be read, 0 may be"),
    ],
)  # fmt: skip
def test_what_the_data_lacks_is_said(
    place: Path, model: pm.Model, tmp_path: Path, record: Any, options: dict[str, Any], words: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    given = EvaluateOptions(media_root=str(place), **options)
    with pytest.raises(ConfigError, match=words):
        measure(model, TALK, tmp_path / "a.jsonl", out=tmp_path / "out", options=given)


def test_unknown_tasks_and_models_that_cannot(place: Path, model: pm.Model, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="there is no task 'vqaa'; there are"):
        measure(model, "vqaa", place / "a.jsonl", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="takes a model, or predictions"):
        measure(None, TALK, place / "a.jsonl", out=tmp_path / "out")
    (tmp_path / "b.jsonl").write_text('{"image": "0.png", "label": "a"}')
    with pytest.raises(ConfigError, match="classify"):
        measure(model, "classification", tmp_path / "b.jsonl", out=tmp_path / "out")


def test_a_full_disk_loses_nothing(place: Path, model: pm.Model, tmp_path: Path, monkeypatch: Any) -> None:
    out, options = tmp_path / "out", EvaluateOptions(batch=2, limit=4)

    def full(path: Path, lines: Sequence[Any]) -> None:
        raise StorageError(f"cannot write {path}: No space left on device; what was measured before is kept")

    real, calls = evaluation.append, []
    monkeypatch.setattr(
        evaluation, "append", lambda path, lines: (calls.append(1), (real if len(calls) < 2 else full)(path, lines))[1]
    )
    with pytest.raises(StorageError, match="is kept"):
        measure(model, TALK, place / "a.jsonl", out=out, options=options)
    assert [line["index"] for line in lines(out)] == [0, 1]


def test_intervals_are_those_of_resampled_samples() -> None:
    rng = np.random.default_rng(0)
    hits = (rng.random(400) < 0.3).astype(float)
    samples = [Scored(record={}, prediction=hit) for hit in hits]
    mean = measured(Metric(name="share", rows=lambda some: np.array([each.prediction for each in some])), samples)
    width = 1.96 * np.sqrt(mean.value * (1 - mean.value) / 400)
    assert mean.value == hits.mean() and mean.low == pytest.approx(mean.value - width, abs=0.01)
    assert mean.high == pytest.approx(mean.value + width, abs=0.01)
    with pytest.raises(ConfigError, match="at least one sample"):
        measured(Metric(name="share", rows=letters), [])


def test_what_metrics_share_is_read_once() -> None:
    reads: list[int] = []

    def read(samples: Sequence[Scored]) -> np.ndarray:
        reads.append(len(samples))
        return np.array([float(sample.prediction) for sample in samples])

    metrics = [Metric(name=name, read=read, rows=np.asarray) for name in "abc"]
    found = all_measured(metrics, [Scored(record={}, prediction=number) for number in (1, 2)])
    assert [each.value for each in found] == [1.5] * 3 and reads == [2]
    assert (found[0].low, found[0].high) == (1, 2)


@pytest.mark.parametrize("task", [task for task in TASKS.values() if len(task.metrics) > 1])
def test_a_task_reads_its_samples_less_often_than_it_has_metrics(task: Task) -> None:
    """Navigation's walks, ranks and words are the same for all its metrics."""
    reads = {metric.read for metric in task.metrics} - {as_they_are}
    shared = {"navigation", "retrieval", "captioning", "video-captioning", "video-segmentation", "tracking", "labels"}
    assert len(reads) == 1 if task.name in shared else len(reads) <= len(task.metrics)


def test_a_metric_that_refuses_the_data_says_so_before_the_model_is_asked(
    place: Path, model: pm.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model), "chat_batch", lambda *given, **named: pytest.fail("a model was asked"))
    rows = [{"image": "0.png", "question": "?", "answers": ["a", "b"]}, {**WHOLE, "answers": ["a"]}]
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match=r"one.jsonl:2: answers: VQA accuracy .* at least 2, found 1; exact match"):
        measure(model, "vqa", tmp_path / "one.jsonl", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
