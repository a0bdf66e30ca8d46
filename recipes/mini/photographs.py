"""Teach the image connector the everyday words of what EfficientNet-Lite0's own classifier sees in a photograph.

    everyday.txt     the 1,000 ImageNet classes by everyday word (ours, written by hand, Apache-2.0)
    -> word_of       the index of each class's word among the names; words that are not there are added as names
    -> style         ridge regression from the connector's summary: is it a photograph of a scene?
    -> gate          four values that weigh the words against the learned names, fitted by the likelihood of a right
                     name on validation pictures: drawings, icons, CIFAR-10 and groceries, and photographs of scenes

Photographs: COCO128, the first 128 images of COCO train2017 (from Flickr, each under the Creative Commons licence that
the annotation file names; annotations CC-BY-4.0).  Right nouns: `nouns.txt` for every annotated category
whose boxes cover at least 2 % of the picture.  Half of the images, by the SHA-1 of their number, are validation; the
other half is what `measure_photographs.py` asks about; nothing is fitted to it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from measure import Pictures
from PIL import Image as Pillow
from torch import Tensor

from polymodal.connectors.everyday import Everyday
from polymodal.connectors.names import NamesConnector
from polymodal.encoders.efficientnet_seen import EfficientNetSeen
from polymodal.systems.mini import components
from polymodal.weights.export import save_safetensors
from polymodal.weights.load import open_source
from polymodal.weights.packed import pack, unpack
from polymodal.weights.read import read_safetensors

CLASSES = 1000
COVERS = 0.02  # of the picture, at least, for a category to be what a picture shows
PER_CORPUS = 70
PHOTOGRAPH = "photograph"  # the kind
SHARES = {PHOTOGRAPH: 3.0, "quickdraw": 0.5}  # weights in the fit; 1 elsewhere
PENALTY, FOLDS = 3000.0, 5  # of the style's regression
PULL = 0.001  # of the gate towards the start, since there are few photographs
HERE = Path(__file__).parent
Picture = Pillow.Image


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """path: its file; number: of its image in COCO; nouns: every word that is a right name of something in it."""

    path: Path
    number: int
    nouns: frozenset[str]

    @property
    def test(self) -> bool:
        """Whether it is only for measuring: half of the photographs are."""
        return int(hashlib.sha1(f"{self.number:012d}".encode()).hexdigest(), 16) % 10 < 5


def read_words(path: Path = HERE / "everyday.txt") -> list[str]:
    """The everyday word of each class, in the order of ImageNet's indices; raises ValueError for a torn table."""
    words = [""] * CLASSES
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        word, _, places = line.partition(": ")
        for place in places.split():
            first, _, last = place.partition("-")
            for index in range(int(first), int(last or first) + 1):
                if words[index]:
                    raise ValueError(f"{path.name}: class {index} is {words[index]!r} and {word!r}")
                words[index] = word
    if "" in words:
        raise ValueError(f"{path.name}: class {words.index('')} has no word")
    return words


def read_nouns(path: Path = HERE / "nouns.txt") -> dict[str, frozenset[str]]:
    """The words that are right names of each COCO category."""
    lines = (
        line.partition(": ") for line in path.read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")
    )
    return {category: frozenset(words.split()) for category, _, words in lines}


def photographs(folder: Path) -> list[Photograph]:
    """COCO128 below `folder`: images in train2017/, annotations/instances_train2017.json."""
    stored = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    category, nouns = {c["id"]: c["name"] for c in stored["categories"]}, read_nouns()
    found = []
    for image in stored["images"]:
        covers: dict[str, float] = {}
        for box in stored["annotations"]:
            if box["image_id"] == image["id"]:
                name = category[box["category_id"]]
                covers[name] = covers.get(name, 0.0) + box["bbox"][2] * box["bbox"][3]
        shown = [name for name, area in covers.items() if area >= COVERS * image["width"] * image["height"]]
        right = frozenset(word for name in shown for word in nouns.get(name, {name}))
        if right:
            found.append(Photograph(path=folder / "train2017" / image["file_name"], number=image["id"], nouns=right))
    return found


def named(names: list[str], words: list[str]) -> tuple[list[str], Tensor]:
    """All names, the new words behind the learned ones, and the index of each class's word among them."""
    every = names + sorted(set(words) - set(names))
    index = {name: i for i, name in enumerate(every)}
    return every, torch.tensor([index[word] for word in words])


def ridge(x: Tensor, photograph: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [1, W] and bias [1] of the regression of photograph [n] on x [n, W], solved in dual form.

    Photographs weigh half as much in all as the other pictures.
    """
    y = photograph.float()
    weights = torch.where(photograph, 0.5 * (1 - y).sum() / y.sum(), torch.ones_like(y))
    bias = (weights * y).sum() / weights.sum()
    root = weights.sqrt()
    a = x * root[:, None]
    weight = a.T @ torch.linalg.solve(a @ a.T + PENALTY * torch.eye(len(a)), (y - bias) * root)
    return weight[None], bias[None]


def fit_style(part: Everyday, summaries: Tensor, photograph: Tensor) -> Tensor:
    """Fill `style`; returns each picture's value [n, 1] by a regression that has not seen it, to fit the gate with."""
    fold = torch.randint(FOLDS, (len(summaries),), generator=torch.Generator().manual_seed(0))
    values = torch.zeros(len(summaries), 1)
    for left_out in range(FOLDS):
        inside = fold != left_out
        weight, bias = ridge(summaries[inside], photograph[inside])
        values[~inside] = summaries[~inside] @ weight.T + bias
    weight, bias = ridge(summaries, photograph)
    part.style.load_state_dict({"weight": weight, "bias": bias})
    return values


def fit_gate(part: Everyday, words: Tensor, learned: Tensor, style: Tensor, right: Tensor, weights: Tensor) -> float:
    """Fit the gate by the likelihood of the right names; returns the loss.

    words [n, V + extra], learned [n, V] log-probabilities, style [n, 1], right bool [n, V + extra], weights [n].
    """
    start = part.gate.detach().clone()
    optimiser = torch.optim.LBFGS([part.gate], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        hit = part.mix(words, learned, style).masked_fill(~right, float("-inf")).logsumexp(-1)
        loss = -(hit * weights).sum() / weights.sum() + PULL * (part.gate - start).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return float(closure().detach())


@torch.inference_mode()
def read(encoder: EfficientNetSeen, connector: NamesConnector, pictures: Sequence[Picture]) -> tuple[Tensor, ...]:
    """Decoded pictures -> class probabilities [n, 1, C], log-probabilities of the names [n, V], summaries [n, W]."""
    rows = []
    for picture in pictures:
        features = encoder(components.IMAGE(picture)[None])
        summary = connector.summary(features)
        seen = features[..., : connector.seen].mean(1, keepdim=True)
        rows.append((seen, connector.logits(summary).log_softmax(-1), summary))
    return tuple(torch.cat(column) for column in zip(*rows, strict=True))


def mask(nouns: Sequence[Collection[str]], names: list[str]) -> Tensor:
    """bool [N, V + extra]: names that are, or end in, one of the right nouns of each picture."""
    rows = [[bool({name, name.split()[-1]} & set(right)) for name in names] for right in nouns]
    return torch.tensor(rows)


def validation(data: Path, folder: Path) -> tuple[list[Picture], list[Collection[str]], list[str]]:
    """Pictures, their right nouns and their kind: `PER_CORPUS` of each corpus, and the photographs."""
    stored = Pictures(data)
    corpora = sorted({line["corpus"] for line in stored.lines})
    lines = [line for corpus in corpora for line in stored.choose(PER_CORPUS, corpus=corpus, split="val")]
    own = [photograph for photograph in photographs(folder) if not photograph.test]
    return (
        [*(stored.image(line) for line in lines), *(Pillow.open(photograph.path).convert("RGB") for photograph in own)],
        [*(line["nouns"] for line in lines), *(photograph.nouns for photograph in own)],
        [*(line["corpus"] for line in lines), *(PHOTOGRAPH for _ in own)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="output of prepare.py")
    parser.add_argument("photographs", type=Path, help="folder of COCO128")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stored = read_safetensors(Path(components.TRAINED.name))
    tensors = {name: stored[name] for name in stored}
    names = json.loads(stored.metadata["names"])[: components.CONNECTOR.names]
    every, word_of = named(names, read_words())
    part = replace(components.CONNECTOR.everyday, extra=len(every) - len(names)).build(
        len(names), len(tensors["connector.centre"])
    )
    part.word_of.copy_(word_of)
    ours = {f"connector.everyday.{name}": x for name, x in part.state_dict().items()}
    encoder, connector = components.load_vision(open_source(components.LITE0_SOURCE), {**unpack(stored), **ours})
    pictures, nouns, kinds = validation(args.data, args.photographs)
    right = mask(nouns, every)
    seen, learned, summaries = read(encoder, connector, pictures)
    loss, style = learn(part, (seen, learned, summaries), right, kinds)
    report(part, (seen, learned, style), right, kinds)
    print(f"loss {loss:.4f}, gate {[round(x, 4) for x in part.gate.tolist()]}, {len(every) - len(names)} new names")
    tensors |= {f"connector.everyday.{name}": x for name, x in pack(part.state_dict(), ()).items()}
    save_safetensors(tensors, Path(components.TRAINED.name), metadata={**stored.metadata, "names": json.dumps(every)})


def learn(part: Everyday, read: tuple[Tensor, ...], right: Tensor, kinds: list[str]) -> tuple[float, Tensor]:
    """Fill `style` and `gate` from what `read` gave; returns the loss of the gate and the styles it was fitted with."""
    seen, learned, summaries = read
    style = fit_style(part, summaries, torch.tensor([kind == PHOTOGRAPH for kind in kinds]))
    weights = torch.tensor([SHARES.get(kind, 1.0) / kinds.count(kind) for kind in kinds])
    known = right.any(-1)
    loss = fit_gate(part, part.words(seen)[known], learned[known], style[known], right[known], weights[known])
    return loss, style


@torch.inference_mode()
def report(part: Everyday, read: tuple[Tensor, ...], right: Tensor, kinds: list[str]) -> None:
    """Print how often the first name is right, by kind: learned names, words of the classifier, both."""
    seen, learned, style = read
    words = part.words(seen)
    answers = {"learned": learned, "words": words, "both": part.mix(words, learned, style)}
    first = {name: scores.argmax(-1, keepdim=True) for name, scores in answers.items()}
    share = part.share(words, learned, style)[:, 0]
    for kind in dict.fromkeys(kinds):
        here = torch.tensor([k == kind for k in kinds])
        hits = {name: int(right[here].gather(1, best[here]).sum()) for name, best in first.items()}
        print(kind, int(here.sum()), hits, f"share of the words {share[here].mean():.2f}")


if __name__ == "__main__":
    main()
