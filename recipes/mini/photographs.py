"""Let `mini` name photographs by what its encoder's two networks know, beside the names it learned.

    python recipes/mini/photographs.py DATA SCENES THINGS

DATA is the output of prepare.py; SCENES and THINGS are folders of photographs, see below.  Fits what
`connectors/everyday.py` computes with, and writes it into the released file:
    word_of, thing_of   the everyday word of each of the 1,000 classes (`everyday.txt`) and of each of the detector's 80
                        kinds (`things.txt`); words that were not among the names are appended to them
    style               a ridge regression, solved in closed form, that tells photographs from the corpora's pictures
    gate, found_gate    four values each that weigh the words, and what was found, against the names before them,
                        fitted by the likelihood of a right name on validation pictures: drawings, icons, CIFAR-10 and
                        groceries, photographs of scenes and photographs of one thing

Scenes: 188 photographs of COCO val2017 (`val2017.txt`), which the detector was not trained on; from Flickr, each under
the Creative Commons licence that the annotation file names (annotations CC-BY-4.0).  Right nouns: `nouns.txt` for every
annotated category whose boxes cover at least 2 % of the picture.
Things: one photograph of each ImageNet class; right are its everyday word and the kinds of `things.txt` that it is of.
Many show things of the detector's kinds that no label names, people above all, so a share of right names is a lower
bound.  Without them the detector, which knows 80 kinds, would be trusted with pictures of anything.
Half of either, by the SHA-1 of their number or file name, are validation; the other half is what
`measure_photographs.py` asks about; nothing is fitted to it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import Pictures
from PIL import Image as Pillow
from torch import Tensor, nn

from polymodal.connectors.everyday import Everyday
from polymodal.connectors.names import NamesConnector
from polymodal.encoders.seen_and_found import SeenAndFound
from polymodal.systems.mini import components
from polymodal.weights.export import save_safetensors
from polymodal.weights.fetch import fetch_all
from polymodal.weights.load import open_source
from polymodal.weights.packed import pack, unpack
from polymodal.weights.read import read_safetensors

CLASSES = 1000
COVERS = 0.02  # of the picture, at least, for a category to be what a picture shows
PER_CORPUS = 70
PER_HALF = 150  # photographs of one thing
SCENE, THING = "scene", "thing"  # kinds of photographs
SHARES = {SCENE: 2.5, THING: 2.5, "quickdraw": 0.5}  # weights in the fit; 1 elsewhere
PENALTY, FOLDS = 3000.0, 5  # of the style's regression
PULL = 0.001  # of a gate towards its start, since there are few photographs
HERE = Path(__file__).parent
Picture = Pillow.Image


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """path: its file; key: its number or name; nouns: every word that is a right name of something in it."""

    path: Path
    key: str
    nouns: frozenset[str]
    kind: str

    @property
    def test(self) -> bool:
        """Whether it is only for measuring: half of the photographs are."""
        return int(self.digest, 16) % 10 < 5

    @property
    def digest(self) -> str:
        return hashlib.sha1(self.key.encode()).hexdigest()

    def open(self) -> Picture:
        return Pillow.open(self.path).convert("RGB")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of the detector's kinds: its COCO name, the word that people say, and the ImageNet classes that are of it."""

    name: str
    word: str
    classes: frozenset[int]


def lines_of(name: str, folder: Path = HERE) -> list[str]:
    """The lines of a table that are not empty and no comments."""
    return [x for x in (folder / name).read_text(encoding="utf-8").splitlines() if x.strip() and x[0] != "#"]


def numbers(text: str) -> list[int]:
    """ "3 7-9" -> [3, 7, 8, 9]."""
    spans = (place.partition("-") for place in text.split())
    return [i for first, _, last in spans for i in range(int(first), int(last or first) + 1)]


def read_words(folder: Path = HERE) -> list[str]:
    """The everyday word of each class, in the order of ImageNet's indices; raises ValueError for a torn table."""
    words = [""] * CLASSES
    for line in lines_of("everyday.txt", folder):
        word, _, places = line.partition(": ")
        for index in numbers(places):
            if words[index]:
                raise ValueError(f"everyday.txt: class {index} is {words[index]!r} and {word!r}")
            words[index] = word
    if "" in words:
        raise ValueError(f"everyday.txt: class {words.index('')} has no word")
    return words


def read_kinds(folder: Path = HERE) -> list[Kind]:
    """The detector's kinds in its order; raises ValueError for a line that is none."""
    found = []
    for line in lines_of("things.txt", folder):
        parts = re.fullmatch(r"([a-z ]+?)(?:: ([a-z ]+?))?(?: \[([\d -]+)\])?", line)
        if parts is None:
            raise ValueError(f"things.txt: expected 'kind: word [classes]', found {line!r}")
        found.append(Kind(name=parts[1], word=parts[2] or parts[1], classes=frozenset(numbers(parts[3] or ""))))
    return found


def read_nouns() -> dict[str, frozenset[str]]:
    """The words that are right names of each COCO category."""
    rows = (line.partition(": ") for line in lines_of("nouns.txt"))
    return {category: frozenset(words.split()) for category, _, words in rows}


def chosen_scenes(folder: Path) -> tuple[list[dict], dict[int, str], dict[int, list[dict]]]:
    """Images of `val2017.txt` in annotations/instances_val2017.json, its categories, and the boxes of each image."""
    stored = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    chosen = set(numbers(" ".join(lines_of("val2017.txt"))))
    boxes: dict[int, list[dict]] = {}
    for box in stored["annotations"]:
        boxes.setdefault(box["image_id"], []).append(box)
    images = [image for image in stored["images"] if image["id"] in chosen]
    return images, {each["id"]: each["name"] for each in stored["categories"]}, boxes


def scene_boxes(folder: Path) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Key of a scene -> its annotated things, (kind, box in 0..1); marks for whole crowds are left out."""
    images, category, boxes = chosen_scenes(folder)
    found: dict[str, list[tuple[str, tuple[float, ...]]]] = {}
    for image in images:
        width, height = image["width"], image["height"]
        own = found.setdefault(f"{image['id']:012d}", [])
        for each in boxes.get(image["id"], ()):
            if not each.get("iscrowd"):
                x, y, w, h = each["bbox"]
                own.append((category[each["category_id"]], (x / width, y / height, (x + w) / width, (y + h) / height)))
    return found


def scenes(folder: Path) -> list[Photograph]:
    """Those of `val2017.txt` below `folder`, whose images are in val2017/."""
    images, category, boxes = chosen_scenes(folder)
    nouns, found = read_nouns(), []
    for image in images:
        covers: dict[str, float] = {}
        for box in boxes.get(image["id"], ()):
            name = category[box["category_id"]]
            covers[name] = covers.get(name, 0.0) + box["bbox"][2] * box["bbox"][3]
        shown = [name for name, area in covers.items() if area >= COVERS * image["width"] * image["height"]]
        right = frozenset(word for name in shown for word in nouns.get(name, {name}))
        if right:
            path = folder / "val2017" / image["file_name"]
            found.append(Photograph(path=path, key=f"{image['id']:012d}", nouns=right, kind=SCENE))
    return found


def things(folder: Path) -> list[Photograph]:
    """`PER_HALF` of either half of `folder`: one photograph for each class, n01440764_*.JPEG by its WordNet id."""
    words, files = read_words(), sorted(folder.glob("n*.JPEG"))
    if len(files) != CLASSES:
        raise ValueError(f"{folder}: expected {CLASSES} photographs n*.JPEG, one for each class, found {len(files)}")
    rows = []
    for index, path in enumerate(files):
        said = {words[index], *(kind.word for kind in read_kinds() if index in kind.classes)}
        nouns = frozenset(said | {word.split()[-1] for word in said})
        rows.append(Photograph(path=path, key=path.name, nouns=nouns, kind=THING))
    rows.sort(key=lambda row: row.digest[::-1])
    return [row for test in (False, True) for row in [each for each in rows if each.test == test][:PER_HALF]]


def named(names: list[str], *tables: list[str]) -> tuple[list[str], list[Tensor]]:
    """All names, the new words behind the learned ones, and for each table the indices of its words among them."""
    every = names + sorted({word for words in tables for word in words} - set(names))
    index = {name: i for i, name in enumerate(every)}
    return every, [torch.tensor([index[word] for word in words]) for words in tables]


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


def fit_gate(gate: nn.Parameter, mixed: Callable[[], Tensor], right: Tensor, weights: Tensor) -> float:
    """Fit four values of a gate by the likelihood of the right names; returns the loss.

    mixed() -> probabilities [n, V + extra] with the gate as it is, right bool [n, V + extra], weights [n].
    """
    start = gate.detach().clone()
    optimiser = torch.optim.LBFGS([gate], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        hit = mixed().clamp(min=1e-9).log().masked_fill(~right, float("-inf")).logsumexp(-1)
        loss = -(hit * weights).sum() / weights.sum() + PULL * (gate - start).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return float(closure().detach())


@dataclass(frozen=True)
class Read:
    """What the networks say of n pictures: found [n, K], seen [n, C], learned [n, V], summaries [n, W]."""

    found: Tensor
    seen: Tensor
    learned: Tensor
    summaries: Tensor

    def __getitem__(self, rows: Tensor) -> Read:
        return Read(self.found[rows], self.seen[rows], self.learned[rows], self.summaries[rows])


@torch.inference_mode()
def read(encoder: SeenAndFound, connector: NamesConnector, pictures: Sequence[Picture]) -> Read:
    """Decoded pictures, one by one, through the encoder."""
    rows = []
    for picture in pictures:
        features = encoder(**{name: x[None] for name, x in components.VIEWS(picture).items()})
        summary = connector.summary(features)
        rows.append((*connector.facts(features), connector.logits(summary).log_softmax(-1), summary))
    return Read(*(torch.cat(column) for column in zip(*rows, strict=True)))


def mask(nouns: Sequence[Collection[str]], names: list[str]) -> Tensor:
    """bool [N, V + extra]: names that are, or end in, one of the right nouns of each picture."""
    rows = [[bool({name, name.split()[-1]} & set(right)) for name in names] for right in nouns]
    return torch.tensor(rows)


def validation(data: Path, own: list[Photograph]) -> tuple[list[Picture], list[Collection[str]], list[str]]:
    """Pictures, their right nouns and their kind: `PER_CORPUS` of each corpus, and the photographs."""
    stored = Pictures(data)
    corpora = sorted({line["corpus"] for line in stored.lines})
    lines = [line for corpus in corpora for line in stored.choose(PER_CORPUS, corpus=corpus, split="val")]
    own = [photograph for photograph in own if not photograph.test]
    return (
        [*(stored.image(line) for line in lines), *(photograph.open() for photograph in own)],
        [*(line["nouns"] for line in lines), *(photograph.nouns for photograph in own)],
        [*(line["corpus"] for line in lines), *(photograph.kind for photograph in own)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="output of prepare.py")
    parser.add_argument("scenes", type=Path, help="folder of COCO val2017")
    parser.add_argument("things", type=Path, help="folder with a photograph of each ImageNet class")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stored = read_safetensors(Path(components.TRAINED.name))
    tensors = {name: stored[name] for name in stored if not name.startswith("connector.everyday.")}
    names = json.loads(stored.metadata["names"])[: components.CONNECTOR.names]
    every, (word_of, thing_of) = named(names, read_words(), [kind.word for kind in read_kinds()])
    if (extra := len(every) - len(names)) != components.EXTRA:
        raise ValueError(f"the tables have {extra} words that are no learned names; components.EXTRA says otherwise")
    part = components.CONNECTOR.everyday.build(len(names), len(tensors["connector.centre"]))
    part.word_of.copy_(word_of)
    part.thing_of.copy_(thing_of)
    ours = {f"connector.everyday.{name}": x for name, x in part.state_dict().items()}
    fetch_all((components.CENTERNET_VALUES, components.CENTERNET_SOURCE))
    files = open_source(components.LITE0_SOURCE), open_source(components.CENTERNET_SOURCE)
    encoder, connector = components.load_vision(*files, {**unpack(tensors), **ours})
    pictures, nouns, kinds = validation(args.data, [*scenes(args.scenes), *things(args.things)])
    right, said = mask(nouns, every), read(encoder, connector, pictures)
    loss, style = learn(part, said, right, kinds)
    report(part, said, style, right, kinds)
    gates = [[round(x, 4) for x in gate.tolist()] for gate in (part.gate, part.found_gate)]
    print(f"loss {loss:.4f}, gates {gates}, {extra} new names")
    tensors |= {f"connector.everyday.{name}": x for name, x in pack(part.state_dict(), ()).items()}
    save_safetensors(tensors, Path(components.TRAINED.name), metadata={**stored.metadata, "names": json.dumps(every)})


def learn(part: Everyday, said: Read, right: Tensor, kinds: list[str]) -> tuple[float, Tensor]:
    """Fill `style` and the gates; returns the loss of the last gate, and the styles that they were fitted with."""
    style = fit_style(part, said.summaries, torch.tensor([kind in (SCENE, THING) for kind in kinds]))
    weights = torch.tensor([SHARES.get(kind, 1.0) / kinds.count(kind) for kind in kinds])
    known = right.any(-1)
    some, right, weights, near = said[known], right[known], weights[known], style[known]
    words = part.words(some.seen)
    fit_gate(part.gate, lambda: part.mix(words, some.learned, near), right, weights)
    names = part.mix(words, some.learned, near).detach()
    loss = fit_gate(part.found_gate, lambda: part.mix_found(some.found, names, near), right, weights)
    return loss, style


@torch.inference_mode()
def report(part: Everyday, said: Read, style: Tensor, right: Tensor, kinds: list[str]) -> None:
    """Print how often the first name is right, by kind: of each source, and as they are mixed."""
    words = part.words(said.seen)
    names = part.mix(words, said.learned, style)
    answers = {"learned": said.learned, "words": words, "names": names, "found": part.things(said.found)}
    answers["all"] = part.mix_found(said.found, names, style)
    first = {name: scores.argmax(-1, keepdim=True) for name, scores in answers.items()}
    share = part.found_share(said.found, names, style)[:, 0]
    for kind in dict.fromkeys(kinds):
        here = torch.tensor([k == kind for k in kinds])
        hits = {name: int(right[here].gather(1, best[here]).sum()) for name, best in first.items()}
        print(kind, int(here.sum()), hits, f"share of the found {share[here].mean():.2f}")


if __name__ == "__main__":
    main()
