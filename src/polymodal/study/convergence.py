"""The convergence study: do models that never met find the same samples alike (arXiv 2405.07987)?

    pairs (picture, text, sound) -> features of every layer of each model, kept in OUT/features
        -> alignment of every two models (models/representation_alignment.py), and of shuffled pairs
        -> convergence.json, convergence.html

Shuffled pairs are the level of chance: the best of many pairs of layers lies above k / (N - 1).  Traps: models of one
modality see the same input, which is more than two modalities have in common; both are in one table.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from polymodal.check import real
from polymodal.check.record import MissingData
from polymodal.cpu import model_name
from polymodal.data.datasets.opening import open_dataset
from polymodal.data.media import Image, Text
from polymodal.errors import ConfigError
from polymodal.html_page import escaped, page
from polymodal.models.representation_alignment import (
    Features,
    RepresentationAlignment,
    RepresentationAlignmentConfig,
)
from polymodal.study.layers import FILES, from_file, part_of, reader, together
from polymodal.study.writing import write

AT_HAND = ("efficientnet-lite0", "centernet", "smollm2-135m", "minilm", "efficientnet-lite0:untrained",
           "smollm2-135m:untrained")  # fmt: skip
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ConvergenceOptions:
    """models: files of features, names of parts, or models (study/layers.py); none: those that `mini` is made of.
    data: pairs; none: the pictures with names of `polymodal check --fetch`.  limit: the first pairs; 0: all."""

    out: Path
    models: tuple[str, ...] = ()
    data: Path | None = None
    metric: str = "mutual_knn"
    topk: int = 10
    limit: int = 0
    shuffles: int = 20


def study_convergence(options: ConvergenceOptions, say: Say = lambda text: None) -> dict[str, Any]:
    """Measure every two models, write OUT/convergence.json and OUT/convergence.html, return what the former holds."""
    names = options.models or AT_HAND
    if len(names) < 2:
        raise ConfigError(f"study convergence compares two models or more; found {', '.join(names)}")
    measure = RepresentationAlignmentConfig(metric=options.metric, topk=options.topk).build()
    pairs = None if all(is_file(name) for name in names) else read_pairs(options)
    layers = {}
    for name in names:
        found = from_file(Path(name)) if is_file(name) else features(name, pairs or [], options, say)
        layers[name] = measure.layers(found, name)
    rows = []
    for first, second in combinations(names, 2):
        say(f"{first} and {second}")
        rows.append(aligned(measure, (first, layers[first]), (second, layers[second]), options.shuffles))
    found_rows = sorted(rows, key=lambda row: -row["alignment"])
    study = {
        "study": "convergence",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "machine": model_name(),
        "metric": options.metric,
        "topk": options.topk,
        "samples": len(layers[names[0]][0]),
        "data": None if pairs is None else Path(options.data).name if options.data else "check --fetch",
        "models": {name: {"layers": len(each)} for name, each in layers.items()},
        "pairs": found_rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out / "convergence.json", json.dumps(study, indent=1))
    write(options.out / "convergence.html", document(study))
    return study


def is_file(name: str) -> bool:
    """Whether a name is that of a file of features.  Raises ConfigError for one that is not there."""
    path = Path(name)
    if path.suffix.lower() not in FILES:
        return False
    if not path.exists():
        raise ConfigError(f"there is no file of features at {name}")
    return path.is_file()


def read_pairs(options: ConvergenceOptions) -> list[tuple[Any, ...]]:
    """Media and text of each sample."""
    if options.data is None:
        try:
            pairs: list[tuple[Any, ...]] = [(Image(picture), Text(name)) for picture, name in real.pictures()]
        except MissingData as problem:
            raise ConfigError(f"{problem}, or give --data") from problem
        return pairs[: options.limit or None]
    samples = open_dataset(options.data)
    count = min(len(samples), options.limit or len(samples))
    found = []
    for index in range(count):
        parts = [part for message in samples.sample(index).messages for part in message.parts]
        found.append(tuple(part for part in parts if not (isinstance(part, Text) and not part.text.strip())))
    return found


def features(name: str, pairs: Sequence[tuple[Any, ...]], options: ConvergenceOptions, say: Say) -> Features:
    """Of a model or a part, from the folder where they were computed before."""
    what = [name, len(pairs), open_dataset(options.data).manifest()["sha256"] if options.data else "fetched"]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
    kept = options.out / "features" / f"{key}.safetensors"
    if kept.is_file():
        stored = load_file(kept)
        return together([stored[f"layer_{index:03}"] for index in range(len(stored))])
    found = reader(name)
    items = [part_of(pair, found.modality) for pair in pairs]
    if (missing := next((index for index, item in enumerate(items) if item is None), None)) is not None:
        raise ConfigError(
            f"{name} takes {found.modality}, and pair {missing + 1} of the data has none; give other data"
        )
    layers = found.all(items, lambda text: say(f"{name}: {text}"))
    kept.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"layer_{index:03}": layer.contiguous() for index, layer in enumerate(layers)}
    save_file(tensors, kept.with_suffix(".part"))
    kept.with_suffix(".part").replace(kept)
    return together(layers)


def aligned(
    measure: RepresentationAlignment, first: tuple[str, list[Tensor]], second: tuple[str, list[Tensor]], shuffles: int
) -> dict[str, Any]:
    """Alignment of two models with its pair of layers, and what shuffled pairs reach."""
    (name, x), (other, y) = first, second
    scores = measure.scores(x, y)
    best = int(scores.argmax())
    generator = torch.Generator().manual_seed(0)
    chance = []
    for _ in range(shuffles):
        order = torch.randperm(len(y[0]), generator=generator)
        chance.append(float(measure.scores(x, [layer[order] for layer in y]).max()))
    return {
        "models": [name, other],
        "alignment": float(scores.max()),
        "layers": [best // scores.shape[1], best % scores.shape[1]],
        "of_layers": list(scores.shape),
        "shuffled_mean": statistics.mean(chance) if chance else None,
        "shuffled_most": max(chance, default=None),
    }


def document(study: Mapping[str, Any]) -> str:
    """The page: a table of all pairs, the most alike first."""
    rows = "".join(
        f"<tr><td>{escaped(each['models'][0])}</td><td>{escaped(each['models'][1])}</td>"
        f"<td>{each['alignment']:.3f}</td><td>{each['layers'][0]} of {each['of_layers'][0]}, "
        f"{each['layers'][1]} of {each['of_layers'][1]}</td>"
        + ("<td></td>" if each["shuffled_mean"] is None
           else f"<td>{each['shuffled_mean']:.3f} (at most {each['shuffled_most']:.3f})</td>")
        + f"<td>{bar(each['alignment'], study['pairs'][0]['alignment'])}</td></tr>"
        for each in study["pairs"]
    )  # fmt: skip
    head = "<tr><th>model</th><th>model</th><th>alignment</th><th>layers</th><th>shuffled pairs</th><th></th></tr>"
    note = escaped(
        f"{study['metric']}, {study['topk']} neighbours, {study['samples']:,} samples; the best pair of layers; "
        f"{study['date']}, torch {study['torch']}, {study['machine']}"
    )
    lines = (
        "Each number is the share of a sample's nearest neighbours that two models have in common, over the samples "
        "(arXiv 2405.07987, as its official code computes it).",
        "Shuffled pairs are what the same layers reach when the samples of one model change places: chance, "
        "which lies above neighbours / (samples - 1), since the best of many pairs of layers is taken.",
    )
    method = "".join(f"<p>{escaped(line)}</p>" for line in lines)
    bars = ".bar { background: #3b6fb6; height: .8rem; border-radius: 3px; }"
    style = f"{bars} td:last-child {{ width: 22%; }} th {{ overflow-wrap: normal; }}"
    return page("Which models find the same things alike", note, f"<table>{head}{rows}</table>{method}", style)


def bar(value: float, most: float) -> str:
    return f'<div class="bar" style="width: {100 * value / max(most, 1e-9):.0f}%"></div>'
