"""What a loaded model gives for the records of a task, batch by batch: by the task's verb.

chat        "A dog."                 the answer to the media and the question
classify    ["dog", "cat", ...]      labels, likeliest first
transcribe  "hello there"
ground      [0.1, 0.2, 0.5, 0.9]     the first box of the answer, as shares of the picture; null for none
match       {"picture_to_text": 1, "text_to_picture": [4, 1]}   ranks, from 1, among all captions and pictures
locate, predict, similarity, features: see predicting_values.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polymodal.api import media, predicting_values
from polymodal.api.model import Model
from polymodal.errors import ConfigError
from polymodal.evaluate.retrieval import ranks_both_ways
from polymodal.evaluate.task import Task, labels_of

if TYPE_CHECKING:
    from polymodal.api.evaluation import EvaluateOptions, Rows

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "ground": ("chat", "ground"),
    "match": ("embed",),
    "locate": ("chat",),
    "similarity": ("embed",),
    "features": ("embed",),
}
Predict = Callable[[Sequence[int]], Iterator[Mapping[str, Any]]]
OPENED: Mapping[str, Callable[[Any], Any]] = {"image": media.image, "audio": media.audio, "video": media.video}


def predictor(model: Model, task: Task, rows: Rows, options: EvaluateOptions) -> Predict:
    """Numbers of samples -> lines with their `prediction`.  Raises ConfigError for a model that cannot do the task."""
    if not task.verb:
        raise ConfigError(f"no model here predicts {task.name}; give its predictions with --predictions FILE")
    for verb in REQUIRED.get(task.verb, (task.verb,)):
        model.require(verb)
    return PREDICTORS[task.verb](model, task, rows, options)


def _items(task: Task, rows: Rows, index: int) -> list[Any]:
    return [OPENED[kind](rows.media(index, kind)) for kind in task.media]


def _talks(task: Task, rows: Rows, options: EvaluateOptions, some: Sequence[int]) -> list[tuple[str, list[Any]]]:
    """Question and media of each."""
    return [(task.question(rows(index), options.prompt), _items(task, rows, index)) for index in some]


def _chat(model: Model, task: Task, rows: Rows, options: EvaluateOptions) -> Predict:
    most = task.max_tokens if options.max_tokens is None else options.max_tokens

    def predict(some: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        talks = _talks(task, rows, options, some)
        replies = model.chat_batch([[*items, question] for question, items in talks], max_tokens=most, temperature=0.0)
        for (question, _), reply in zip(talks, replies, strict=True):
            yield {"prediction": reply.text.strip(), "prompt": question, "tokens": reply.tokens}

    return predict


def _ground(model: Model, task: Task, rows: Rows, options: EvaluateOptions) -> Predict:
    most = task.max_tokens if options.max_tokens is None else options.max_tokens

    def predict(some: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        talks = _talks(task, rows, options, some)
        replies = model.chat_batch([[*items, question] for question, items in talks], max_tokens=most, temperature=0.0)
        for index, (question, items), reply in zip(some, talks, replies, strict=True):
            things = model.ground(reply.text, *items).things
            # A detector's things are of every kind: those that the phrase names count first.
            phrase = str(rows(index).get("phrase", "")).lower()
            box = next(
                (list(t.box) for t in things if t.label.lower() in phrase), list(things[0].box) if things else None
            )
            yield {"prediction": box, "prompt": question, "answer": reply.text.strip()}

    return predict


def _classify(model: Model, task: Task, rows: Rows, options: EvaluateOptions) -> Predict:
    labels = list(options.labels) or labels_of([rows(index) for index in range(rows.count)])

    def predict(some: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        found = model.classify([_items(task, rows, index)[0] for index in some], labels)
        for each in found:
            yield {"prediction": [label.label for label in each], "probability": each[0].probability}

    return predict


def _transcribe(model: Model, task: Task, rows: Rows, options: EvaluateOptions) -> Predict:
    def predict(some: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        for index in some:
            yield {"prediction": model.transcribe(_items(task, rows, index)[0]).text.strip()}

    return predict


def _match(model: Model, task: Task, rows: Rows, options: EvaluateOptions) -> Predict:
    """All pictures and captions are compared at once, when the first batch is asked for."""
    found: dict[int, Mapping[str, Any]] = {}

    def compare() -> None:
        every = range(rows.count)
        captions = [[str(each) for each in _listed(rows(index)["captions"])] for index in every]
        pictures = model.embed([_items(task, rows, index)[0] for index in every])
        texts = model.embed([media.text(each) for some in captions for each in some])
        to_text, to_picture = ranks_both_ways(pictures @ texts.T, [len(some) for some in captions])
        behind = iter(to_picture.astype(int).tolist())
        for index, rank, own in zip(every, to_text.astype(int).tolist(), captions, strict=True):
            found[index] = {"prediction": {"picture_to_text": rank, "text_to_picture": [next(behind) for _ in own]}}

    def predict(some: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        if not found:
            compare()
        yield from (found[index] for index in some)

    return predict


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


PREDICTORS: Mapping[str, Callable[[Model, Task, Any, Any], Predict]] = {
    "chat": _chat,
    "classify": _classify,
    "transcribe": _transcribe,
    "ground": _ground,
    "match": _match,
    "locate": predicting_values.locate,
    "predict": predicting_values.numbers,
    "similarity": predicting_values.similarity,
    "features": predicting_values.features,
}
