"""What the fusion study learns: to name pictures in one token, from features of a frozen encoder.

    data file (pictures with names) -> names of one token -> the most frequent -> EfficientNet-Lite0's features
        -> standardised [N, S, F] -> a codebook by k-means -> codes [N, h, w] -> features.safetensors, kept

    row: the picture, " shows a", the name; only the name is learned

Every fifth picture of a name is held out.  Traps: features and codebook are fitted on the others alone; accuracy is
among the study's names, the loss is over the whole vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from polymodal.backbones.llama import LlamaShape, gguf_keys
from polymodal.check import real
from polymodal.data.datasets.opening import open_dataset
from polymodal.data.media import Image, Text
from polymodal.data.tokenizer import Tokenizer
from polymodal.encoders.efficientnet import PUBLISHED_KEYS, fold_batch_norms
from polymodal.encoders.efficientnet_grid import grid_keys
from polymodal.errors import ConfigError
from polymodal.generators.codebook import Codebook
from polymodal.nn.losses import IGNORE
from polymodal.study.fusion_types import Entry, FusionType, Shape, State
from polymodal.systems.mini import components
from polymodal.weights.load import load_module, open_source

EVERY = 5  # one picture of so many is held out
AFTER = " shows a"
BATCH = 16  # pictures that are encoded together
ROUNDS = 15  # of k-means


@dataclass(frozen=True, kw_only=True)
class Naming:
    """features float16 [N, S, F]; codes int64 [N, h, w]; answers int64 [N], ids of names; held_out bool [N].

    names: id -> word, in the order of the data.  after: ids behind the picture.  kept_variance: share of the features'
    variance that the codes keep, held out.  values: the features' tensor in a batch.
    """

    features: Tensor
    codes: Tensor
    answers: Tensor
    held_out: Tensor
    names: dict[int, str]
    after: tuple[int, ...]
    kept_variance: float
    values: str = "pixel_values"

    def rows(self, kind: FusionType, entry: Entry, chosen: Tensor) -> dict[str, Tensor]:
        """The batch of these samples for a model of that type."""
        places = [entry.placeholder] * (1 if kind.one_place else entry.tokens)
        fixed = torch.tensor([*places, *self.after]).expand(len(chosen), -1)
        ids = torch.cat((fixed, self.answers[chosen, None]), 1)
        labels = torch.full_like(ids, IGNORE)
        labels[:, -1] = ids[:, -1]
        seen = self.codes[chosen] if kind.coded else self.features[chosen].float()
        return {"input_ids": ids, "labels": labels, self.values: seen}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What all runs of a study share: the data, the shape and the backbone's weights; encoder: its parameters."""

    naming: Naming
    shape: Shape
    weights: State
    encoder: int


def chosen_pictures(data: Path, encode: Callable[[str], list[int]], names: int) -> tuple[list[Any], list[int]]:
    """Pictures of the names of one token that have most pictures, and the ids of their names.

    Raises ConfigError where there are fewer than two such names.
    """
    samples = open_dataset(data)
    found: dict[int, list[Any]] = defaultdict(list)
    for index in range(len(samples)):
        parts = [part for message in samples.sample(index).messages for part in message.parts]
        picture = next((part for part in parts if isinstance(part, Image)), None)
        word = next((part.text for part in reversed(parts) if isinstance(part, Text)), "")
        ids = encode(f" {word.strip()}")
        if picture is not None and len(ids) == 1:
            found[ids[0]].append(picture)
    most = sorted((id for id in found if len(found[id]) >= EVERY), key=lambda id: -len(found[id]))[:names]
    if len(most) < 2:
        raise ConfigError(
            f"{data}: expected pictures with names that are one token, {EVERY} pictures a name or more, of two names "
            f"at least; found {len(most)} such names of {len(samples)} samples"
        )
    return [each for id in most for each in found[id]], [id for id in most for _ in found[id]]


def held_out(answers: Sequence[int]) -> Tensor:
    """Bool [N]: every fifth picture of each name."""
    count: dict[int, int] = defaultdict(int)
    marks = []
    for answer in answers:
        count[answer] += 1
        marks.append(count[answer] % EVERY == 0)
    return torch.tensor(marks)


def standardised(features: Tensor, learned: Tensor) -> Tensor:
    """Channels with mean 0 and deviation 1 over the learned samples [N, S, F]."""
    some = features[learned].flatten(0, 1)
    return (features - some.mean(0)) / some.std(0).clamp_min(1e-3)


def coded(features: Tensor, learned: Tensor, codes: int) -> tuple[Tensor, float]:
    """Codes of every feature by k-means over the learned ones, and the share of the held-out variance they keep."""
    book = Codebook(codes, features.shape[-1])
    rows = features[learned].flatten(0, 1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        book.embedding.weight.copy_(rows[torch.randperm(len(rows), generator=generator)[:codes]])
        for _ in range(ROUNDS):
            nearest = book.nearest(rows)
            count = torch.bincount(nearest, minlength=codes)
            summed = torch.zeros_like(book.embedding.weight).index_add_(0, nearest, rows)
            full = count > 0
            book.embedding.weight[full] = summed[full] / count[full, None]
        found = book.nearest(features)
        rest = features[~learned]
        lost = (rest - book(found[~learned])).square().sum() / (rest - rest.mean((0, 1))).square().sum()
    return found, 1 - float(lost)


def pooled(features: Tensor) -> Tensor:
    """Features of 3 x 3 cells [N, 9, F] -> of 2 x 2 [N, 4, F], each the mean of four neighbours."""
    grid = features.float().transpose(1, 2).unflatten(2, (3, 3))
    return torch.nn.functional.avg_pool2d(grid, 2, 1).flatten(2).transpose(1, 2)


def stored(path: Path, make: Callable[[], tuple[dict[str, Tensor], float]]) -> tuple[dict[str, Tensor], float]:
    """Tensors with a number, made once and kept at `path`."""
    if not path.is_file():
        tensors, number = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path.with_suffix(".part"), metadata={"number": str(number)})
        path.with_suffix(".part").replace(path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, float(file.metadata()["number"])  # noqa: SIM118


def real_subject(data: Path, cache: Path, names: int, codes: int, say: Callable[[str], None]) -> Subject:
    """SmolLM2-135M and EfficientNet-Lite0 with the features of `data`; these are kept in the folder `cache`."""
    language = open_source(components.SMOLLM2_135M_GGUF)
    tokenizer, config, grid = Tokenizer.from_gguf(language.metadata), components.BACKBONE, components.ENCODER.grid
    key = hashlib.sha256(json.dumps([open_dataset(data).manifest()["sha256"], names]).encode()).hexdigest()[:12]

    def cells() -> tuple[dict[str, Tensor], float]:
        pictures, answers = chosen_pictures(data, tokenizer.encode, names)
        marks = held_out(answers)
        features = standardised(encoded(pictures, say), ~marks).half()
        return {"features": features, "answers": torch.tensor(answers), "held_out": marks}, 0.0

    def features() -> tuple[dict[str, Tensor], float]:
        found, _ = stored(cache / f"cells-{key}.safetensors", cells)
        say("k-means")
        small = pooled(found["features"])
        ids, share = coded(small, ~found["held_out"], codes)
        return {**found, "features": small.half(), "codes": ids.unflatten(1, (2, 2))}, share

    found, share = stored(cache / f"features-{key}-{codes}.safetensors", features)
    words = {id: tokenizer.decode([id]).strip() for id in dict.fromkeys(found["answers"].tolist())}
    naming = Naming(**found, names=words, kept_variance=share, after=tuple(tokenizer.encode(AFTER)),
                    values="pixel_values")  # fmt: skip
    image = Entry(features=grid.width, tokens=4, codes=codes, placeholder=tokenizer.special(components.PLACEHOLDER))
    weights = load_module(config.build, language, (gguf_keys(config),), dtype=torch.float32).state_dict()
    with torch.device("meta"):
        encoder = sum(parameter.numel() for parameter in grid.build().parameters())
    shape = Shape(backbone=config, entries={"image": image})
    return Subject(naming=naming, shape=shape, weights=weights, encoder=encoder)


def encoded(pictures: Sequence[Any], say: Callable[[str], None]) -> Tensor:
    """Float32 [N, S, F] of EfficientNet-Lite0."""
    file = open_source(components.LITE0_SOURCE)
    encoder = load_module(components.ENCODER.grid.build, file, (grid_keys(PUBLISHED_KEYS),)).eval()
    encoder.trunk = fold_batch_norms(encoder.trunk)
    found = []
    with torch.inference_mode():
        for start in range(0, len(pictures), BATCH):
            say(f"encoding {start} of {len(pictures)} pictures")
            found.append(encoder(torch.stack([components.IMAGE(each) for each in pictures[start : start + BATCH]])))
    return torch.cat(found).clone()


def tiny_subject(names: int = 6, crops: int = 10, codes: int = 16) -> Subject:
    """A trial of a minute without any download: two blocks of random weights, and colours of crops of real pictures."""
    pixels = real.pixels(60, count=names)
    corners = [(crop % 4 * 3, crop // 4 * 4) for crop in range(crops)]
    views = torch.stack([pixels[:, :, top : top + 48, left : left + 48] for top, left in corners], 1).flatten(0, 1)
    cells = torch.nn.functional.adaptive_avg_pool2d(views, (4, 4)).unfold(2, 2, 2).unfold(3, 2, 2)
    answers = [8 + index for index in range(names) for _ in range(crops)]
    marks = held_out(answers)
    features = standardised(cells.permute(0, 2, 3, 1, 4, 5).reshape(names * crops, 4, 12), ~marks)
    found, share = coded(features, ~marks, codes)
    words = dict(zip(range(8, 8 + names), real.captions(names), strict=True))
    naming = Naming(features=features.half(), codes=found.unflatten(1, (2, 2)), answers=torch.tensor(answers),
                    held_out=marks, names=words, after=(2, 3), kept_variance=share)  # fmt: skip
    shape = LlamaShape(width=32, depth=2, heads=4, kv_heads=2, ffn_width=64, vocab_size=8 + names, tied=True)
    config = shape.config()
    torch.manual_seed(0)
    weights = dict(config.build().state_dict())
    entry = Entry(features=12, tokens=4, codes=codes, placeholder=4)
    return Subject(naming=naming, shape=Shape(backbone=config, entries={"image": entry}, every=1), weights=weights,
                   encoder=0)  # fmt: skip
