"""A task: what a record of its data holds, what a model is asked, and the metrics of what it gives.

    Task(name="vqa", verb="chat", media=("image",), fields=("question", "answers"), prompt="{question}", metrics=...)

`verb` is the method of a loaded model that predicts: chat (a text), classify (labels, likeliest first), transcribe (a
text), ground (a box, or None), match (of each picture and its captions the ranks of the right ones), locate (spans of
time), predict (a number), similarity (a cosine), features (vectors); "" where none of our models does it: then
predictions come from a file.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric

VERBS = ("chat", "classify", "transcribe", "ground", "match", "locate", "predict", "similarity", "features", "")


@dataclass(frozen=True, kw_only=True)
class Task:
    """See the module.  fields: what a record must hold beside the media; max_tokens: of a chat's answer.

    needs: what it must hold too where a model is asked, and not where predictions are given.  gives: fields that a
    model fills in, which the record need not have then.
    """

    name: str
    summary: str
    metrics: tuple[Metric, ...]
    fields: tuple[str, ...]
    verb: str = ""
    media: tuple[str, ...] = ()
    prompt: str = ""
    max_tokens: int = 32
    needs: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.verb not in VERBS:
            raise ConfigError(f"Task.verb: expected one of {', '.join(VERBS[:-1])} or nothing, found {self.verb!r}")

    def required(self, asked: bool) -> tuple[str, ...]:
        """The fields of a record.  asked: whether a model is, in place of predictions that are there."""
        fields = (*self.media, *self.fields, *(self.needs if asked else ()))
        return tuple(field for field in fields if not (asked and field in self.gives))

    def check(self, record: Any, name: str, asked: bool = True) -> Mapping[str, Any]:
        """The record.  Raises ConfigError for one that lacks a field, listing those it has."""
        if not isinstance(record, Mapping):
            raise ConfigError(f"{name}: expected an object with keys, found {type(record).__name__}")
        lacking = [field for field in self.required(asked) if record.get(field) is None]
        if lacking:
            found = ", ".join(map(str, list(record)[:8])) or "none"
            raise ConfigError(f"{name} lacks {', '.join(lacking)}, which {self.name} needs; it has the keys {found}")
        return record

    def metrics_here(self) -> tuple[Metric, ...]:
        """The metrics that can be computed here.  Raises ConfigError where there is none."""
        here = tuple(metric for metric in self.metrics if not metric.lacks())
        if not here:
            raise ConfigError(f"{self.name}: {'; '.join(f'{metric.name} {metric.lacks()}' for metric in self.metrics)}")
        return here

    def question(self, record: Mapping[str, Any], prompt: str | None = None) -> str:
        """What a model is asked about a record.  Raises ConfigError where a prompt names a field that is not there."""
        template = self.prompt if prompt is None else prompt
        try:
            named = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
            unknown = [name for name in named if name not in record]
            if unknown:
                raise ConfigError(
                    f"the prompt names {{{unknown[0]}}}, which the data has not; it has {', '.join(record)}"
                )
            return template.format(**{name: record[name] for name in named})
        except (ValueError, IndexError, KeyError, AttributeError) as problem:
            raise ConfigError(f"the prompt {template!r} cannot be filled in: {problem}") from problem


def labels_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels that occur in the data, the first one first.  Raises ConfigError where it is one alone."""
    found = list(dict.fromkeys(str(record["label"]) for record in records))
    if len(found) < 2:
        raise ConfigError(f"all records have the label {found[0]!r}; name the labels to choose from with --labels")
    return found
