"""Samples whose media are features already: sequences of vectors by modality, with labels.

    a table of arrays, as files keep them  ->  FeatureSet: len, sample(i) -> FeatureSample

Layouts (what a table holds; N samples, T steps, F numbers a step)
    MMSA           text, audio, vision [N, T, F], text_bert [N, 3, T] (ids, mask, segments), audio_lengths,
                   vision_lengths [N], regression_labels [N] and of each modality (regression_labels_T, _A, _V),
                   classification_labels, raw_text, id
    dialogues      videoIDs, speakers, labels, text, audio (, visual), sentences, train ids, test ids, in this order;
                   the first are tables by dialogue (conv-emotion's pickles of IEMOCAP and MELD)
    anything else with arrays [N, T, F] or [N, F] under the names of modalities, <modality>_lengths, labels, id
Padding is cut off where lengths are known.  What is no number is refused by the sample's name; minus infinity in MMSA's
audio becomes 0, as MMSA itself reads its files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polymodal.errors import ConfigError, PromptError

SPLITS = ("train", "valid", "test")
MODALITIES = ("text", "audio", "vision")
RENAMED = {"video": "vision", "visual": "vision", "regression_labels": "M", "labels": "M", "label": "M"}
LABELS = ("M", "T", "A", "V")
LISTED = ("id", "raw_text", "speakers", "split")


@dataclass(frozen=True, kw_only=True)
class FeatureSample:
    """One sample.  features: modality -> float32 [T, F], without padding.  ids: int64 [3, T] of BERT's tokens (ids,
    mask, segments).  labels: by name, a number, or an array of one for each step.  speakers: of each step."""

    name: str
    features: Mapping[str, np.ndarray]
    labels: Mapping[str, Any] = field(default_factory=dict)
    ids: np.ndarray | None = None
    speakers: tuple[str, ...] = ()
    text: str = ""


class FeatureSet:
    """The samples of one split.  Raises ConfigError, naming file, modality and sample, for what does not fit."""

    def __init__(self, source: str, samples: Sequence[FeatureSample]) -> None:
        self.source, self.samples = source, list(samples)
        if not self.samples:
            raise ConfigError(f"{source} holds no samples")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> FeatureSample:
        return self.samples[index]

    @property
    def widths(self) -> dict[str, int]:
        """Numbers a step, by modality."""
        return {name: values.shape[1] for name, values in self.samples[0].features.items()}


def feature_set(whole: Any, split: str | None, source: str) -> FeatureSet:
    """The samples of a split of a file's value.  split: "train", "valid" or "test"; None: all that the file holds."""
    if isinstance(whole, list | tuple):
        return FeatureSet(source, dialogues(whole, split, source))
    if not isinstance(whole, Mapping):
        raise ConfigError(f"{source} holds {type(whole).__name__}, expected a table of arrays")
    named = {name: whole[name] for name in SPLITS if isinstance(whole.get(name), Mapping)}
    if not named:
        return FeatureSet(source, _of_split(samples_of(whole, source), whole, split, source))
    if split is None:
        return FeatureSet(
            source, [each for name, table in named.items() for each in samples_of(table, f"{source}, {name}")]
        )
    if split not in named:
        raise ConfigError(f"{source} has no split {split!r}; it has {', '.join(named)}")
    return FeatureSet(f"{source}, {split}", samples_of(named[split], f"{source}, {split}"))


def _of_split(
    samples: list[FeatureSample], table: Mapping[str, Any], split: str | None, source: str
) -> list[FeatureSample]:
    """Those whose `split` is asked for; a table without one is of whatever split it is taken for."""
    marks = table.get("split")
    if split is None or marks is None:
        return samples
    found = [str(mark) for mark in marks]
    if split not in found:
        raise ConfigError(f"{source} has no samples of split {split!r}; it has {', '.join(sorted(set(found)))}")
    return [sample for sample, mark in zip(samples, found, strict=True) if mark == split]


def samples_of(table: Mapping[str, Any], source: str) -> list[FeatureSample]:
    """The samples of one table; see the module."""
    renamed = {RENAMED.get(str(name), str(name)): value for name, value in table.items()}
    renamed |= {f"{new}_lengths": table[f"{old}_lengths"] for old, new in RENAMED.items() if f"{old}_lengths" in table}
    renamed |= {each: table[f"regression_labels_{each}"] for each in "TAV" if f"regression_labels_{each}" in table}
    arrays = {name: _numbers(renamed[name], name, source) for name in MODALITIES if renamed.get(name) is not None}
    ids = renamed.get("text_bert")
    if not arrays and ids is None:
        raise ConfigError(f"{source} has no features; expected {', '.join(MODALITIES)}, found the keys "
                          f"{', '.join(list(renamed)[:8]) or 'none'}")  # fmt: skip
    tokens = None if ids is None else _tokens(np.asarray(ids), source)
    count = len(tokens if tokens is not None else next(iter(arrays.values())))
    sized = {**arrays, **{name: renamed[name] for name in (*LABELS, *LISTED) if renamed.get(name) is not None}}
    for name, values in sized.items():
        if len(values) != count:
            raise ConfigError(f"{source}: {name} has {len(values)} samples, expected {count} as the others have")
    names = [str(each) for each in renamed["id"]] if "id" in renamed else [str(i) for i in range(count)]
    lengths = {name: _lengths(name, renamed, arrays, names, source) for name in arrays}
    cut = {name: _finite(arrays[name], lengths[name], name, names, source) for name in arrays}
    labels = {
        name: _label_values(renamed[name], name, names, source) for name in LABELS if renamed.get(name) is not None
    }
    texts = renamed.get("raw_text")
    return [
        FeatureSample(
            name=names[i],
            features={name: cut[name][i] for name in arrays},
            labels={name: float(values[i]) for name, values in labels.items()},
            ids=None if tokens is None else tokens[i],
            text="" if texts is None else str(texts[i]),
        )
        for i in range(count)
    ]


def _numbers(values: Any, name: str, source: str) -> np.ndarray:
    """float32 [N, T, F]; vectors [N, F] are sequences of one step."""
    try:
        array = np.asarray(values)
    except ValueError as problem:
        raise ConfigError(
            f"{source}: {name} is of rows of unequal length; pad them and give {name}_lengths"
        ) from problem
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or 0 in array.shape:
        raise ConfigError(f"{source}: {name} must be numbers [N, T, F] or [N, F], found {array.dtype} "
                          f"{list(array.shape)}")  # fmt: skip
    array = array[:, None] if array.ndim == 2 else array
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused by its sample's name
        return array if array.dtype == np.float32 else array.astype(np.float32)


def _tokens(values: np.ndarray, source: str) -> np.ndarray:
    if values.ndim != 3 or values.shape[1] != 3 or values.dtype.kind not in "fiu":
        raise ConfigError(f"{source}: text_bert must be [N, 3, T] (ids, mask, segments), found {list(values.shape)}")
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > 2**31:
        raise ConfigError(f"{source}: text_bert must hold ids of tokens, found {values.flat[np.abs(values).argmax()]}")
    return values.astype(np.int64)


def _lengths(
    name: str, table: Mapping[str, Any], arrays: Mapping[str, np.ndarray], names: Sequence[str], source: str
) -> np.ndarray:
    """Real steps of each sample, [N].  Where a file has none, every step counts."""
    steps, given = arrays[name].shape[1], table.get(f"{name}_lengths")
    if given is None:
        return np.full(len(names), steps)
    lengths = np.asarray(given)
    if lengths.shape != (len(names),) or lengths.dtype.kind not in "iuf":
        raise ConfigError(f"{source}: {name}_lengths must be {len(names)} numbers, found {list(lengths.shape)}")
    for sample, length in zip(names, lengths.tolist(), strict=True):
        if not 1 <= length <= steps or length != int(length):
            raise ConfigError(f"{source}: sample {sample}: {name}_lengths says {length}, expected 1 to {steps}, which "
                              f"{name} holds")  # fmt: skip
    return lengths.astype(np.int64)


def _finite(array: np.ndarray, lengths: np.ndarray, name: str, names: Sequence[str], source: str) -> list[np.ndarray]:
    """Each sample's real steps.  Raises ConfigError for NaN and infinity, naming the sample."""
    made = []
    for values, length, sample in zip(array, lengths.tolist(), names, strict=True):
        own = values[:length]
        if not np.isfinite(own).all():
            if name == "audio":
                own = np.where(np.isneginf(own), np.float32(0), own)
            if (bad := np.argwhere(~np.isfinite(own))).size:
                step, column = bad[0].tolist()
                raise ConfigError(f"{source}: sample {sample}: {name} is {own[step, column]} at step {step}, number "
                                  f"{column}; mend or drop the sample")  # fmt: skip
        made.append(own)
    return made


def _label_values(values: Any, name: str, names: Sequence[str], source: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind in "OUS":
        raise ConfigError(
            f"{source}: labels {name} must be numbers, found {array.dtype}; e.g. {str(array.flat[0])!r:.40}"
        )
    array = array.astype(np.float64).reshape(len(names), -1)
    if array.shape[1] != 1 or not np.isfinite(array).all():
        row = int(np.argmax(~np.isfinite(array).all(1)))
        raise ConfigError(f"{source}: sample {names[row]}: label {name} is {array[row].tolist()}, expected one number")
    return array[:, 0]


def dialogues(parts: Sequence[Any], split: str | None, source: str) -> list[FeatureSample]:
    """conv-emotion's pickles: IEMOCAP (9 parts, with visual) and MELD (9, without visual, two kinds of labels)."""
    if len(parts) != 9 or not all(isinstance(each, Mapping) for each in parts[1:4]):
        raise ConfigError(f"{source} is a list of {len(parts)} parts, expected the 9 of conv-emotion's feature files")
    visual = isinstance(parts[5], Mapping) and _is_numbers(next(iter(parts[5].values()), None))
    speakers, labels, text, audio = parts[1:5]
    features = {"text": text, "audio": audio, **({"vision": parts[5]} if visual else {})}
    train, test = (parts[7], parts[8]) if visual else (parts[6], parts[7])
    chosen = {"train": train, "test": test, None: [*train, *test]}.get(split)
    if chosen is None:
        raise ConfigError(f"{source} has no split {split!r}; it has train, test")
    return [_dialogue(str(key), key, features, labels, speakers, source) for key in sorted(chosen, key=str)]


def _is_numbers(value: Any) -> bool:
    try:
        return np.asarray(value).dtype.kind in "fiu"
    except ValueError:
        return False


def _dialogue(
    name: str, key: Any, features: Mapping[str, Any], labels: Any, speakers: Any, source: str
) -> FeatureSample:
    try:
        own = {modality: _numbers(np.asarray(table[key])[None], modality, f"{source}, dialogue {name}")
               for modality, table in features.items()}  # fmt: skip
        classes, said = np.asarray(labels[key]), [_speaker(each) for each in speakers[key]]
    except KeyError as problem:
        raise ConfigError(f"{source}: dialogue {name} is named as a sample, and has no features") from problem
    counts = {modality: values.shape[1] for modality, values in own.items()} | {
        "labels": len(classes), "speakers": len(said)}  # fmt: skip
    if len(set(counts.values())) != 1:
        counted = ", ".join(f"{what} {count}" for what, count in counts.items())
        raise ConfigError(f"{source}: dialogue {name} has unequal numbers of utterances: {counted}")
    cut = {modality: _finite(values, np.array([values.shape[1]]), modality, [name], source)[0]
           for modality, values in own.items()}  # fmt: skip
    return FeatureSample(name=name, features=cut, labels={"utterances": classes}, speakers=tuple(said))


def _speaker(value: Any) -> str:
    """A name, or the place of the 1 in MELD's one-hot rows."""
    if isinstance(value, str):
        return value
    row = np.asarray(value).reshape(-1)
    if row.dtype.kind not in "fiub" or not row.size:
        raise PromptError(f"a speaker is {str(value)[:40]!r}, expected a name or a one-hot row")
    return str(int(row.argmax()))
