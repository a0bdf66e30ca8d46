"""What a loaded model gives for tasks whose answers are no words: spans of time, numbers, cosines, features.

locate      [[3.5, 10.0]]                      spans in seconds that a chat model wrote, in its order
predict     0.8                                the number of a regression head, from sequences of features
similarity  0.31                               the cosine of a picture's and a text's vectors
features    [0.1, ...]                         the vector of a picture that was made; the real one's joins the record
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from polymodal.api import media
from polymodal.api.model import Model
from polymodal.errors import ConfigError, MediaError
from polymodal.evaluate.spans import spans_in
from polymodal.evaluate.task import Task

if TYPE_CHECKING:
    from polymodal.api.evaluation import EvaluateOptions, Rows

Predict = Callable[[Sequence[int]], Iterator[Mapping[str, Any]]]
SEQUENCES = ("text", "audio", "vision")
HEADS = ("score", "M")  # of several heads the one of all modalities together


def locate(model: Model, task: Task, rows: Rows, options: EvaluateOptions) -> Predict:
    """Videos and a question each -> spans."""
    most = task.max_tokens if options.max_tokens is None else options.max_tokens

    def predict(some: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        videos = [media.video(rows.media(index, "video")) for index in some]
        questions = [task.question(rows(index), options.prompt) for index in some]
        asked = [[video, question] for video, question in zip(videos, questions, strict=True)]
        replies = model.chat_batch(asked, max_tokens=most, temperature=0.0)
        for video, question, reply in zip(videos, questions, replies, strict=True):
            yield {
                "prediction": spans_in(reply.text, partial(_length, video)),
                "prompt": question,
                "answer": reply.text.strip(),
            }

    return predict


def _length(video: Any) -> float:
    seconds: float = video.seconds
    return seconds


def numbers(model: Model, task: Task, rows: Rows, options: EvaluateOptions) -> Predict:
    """Sequences of features -> a number; one sample at a time, since padding would be seen."""

    def predict(some: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        for index in some:
            found = model.predict(**_sequences(rows, index))
            head = next((name for name in HEADS if name in found), next(iter(found)))
            yield {"prediction": float(found[head].reshape(-1)[0])}

    return predict


def _sequences(rows: Rows, index: int) -> dict[str, torch.Tensor]:
    """The features of a record, each [1, T, F]: lists of lists, or .npy files."""
    record, found = rows(index), {}
    for name in SEQUENCES:
        value = record.get(name)
        if value is None or (isinstance(value, str) and not value.endswith(".npy")):  # `text` may be the words
            continue
        source = value if isinstance(value, list) else rows.media(index, name)
        values = torch.from_numpy(media.array(source).values.copy())
        if values.ndim != 2:
            raise MediaError(f"{rows.dataset.name(index)}: {name} must be [T, F], found {list(values.shape)}")
        found[name] = values[None]
    if not found:
        raise ConfigError(
            f"{rows.dataset.name(index)} has no features; a model that predicts needs {', '.join(SEQUENCES)} as .npy "
            "files or lists, [T, F] each; or give predictions with --predictions FILE"
        )
    return found


def similarity(model: Model, task: Task, rows: Rows, options: EvaluateOptions) -> Predict:
    """Pictures and a text each -> cosines."""

    def predict(some: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        pictures = model.embed([media.image(rows.media(index, "image")) for index in some])
        texts = model.embed([media.text(str(rows(index)["text"])) for index in some])
        for cosine in torch.nn.functional.cosine_similarity(pictures, texts).tolist():
            yield {"prediction": cosine}

    return predict


def features(model: Model, task: Task, rows: Rows, options: EvaluateOptions) -> Predict:
    """Real pictures and those that were made -> the vectors of both."""

    def predict(some: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        real, made = (
            model.embed([media.image(rows.media(index, field)) for index in some]).tolist()
            for field in ("image", "made")
        )
        for one, other in zip(real, made, strict=True):
            yield {"prediction": other, "record": {"features": one}}

    return predict
