"""Which kinds of things are there at all: `there_gate` of connectors/everyday.py, solved on validation pictures.

    python recipes/mini/there.py DATA SCENES THINGS

photographs.py gives the first name, and things that are all there take its probability from each other; so each kind
of thing has a chance of its own, from four values.  They are fitted by the likelihood of what is annotated in
validation photographs of scenes, and of the nouns of drawings.  Photographs of one thing are left out: what else they
show is not annotated.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import Pictures
from photographs import SCENE, THING, Photograph, Picture, Read, fit_gate, read, read_kinds, read_nouns, scenes, things
from torch import Tensor

import polymodal as pm
from polymodal.connectors.everyday import Everyday
from polymodal.systems.mini import components
from polymodal.weights.export import save_safetensors
from polymodal.weights.read import read_safetensors

PER_SPLIT = 30  # pictures of each corpus from training, and from validation
GATE = "connector.everyday.there_gate"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture: where it comes from, its right nouns, its line in pictures.jsonl if it has one."""

    kind: str
    nouns: frozenset[str]
    source: Photograph | None = None
    line: dict | None = None

    def open(self, stored: Pictures) -> Picture:
        return self.source.open() if self.source else stored.image(self.line)

    def holds(self, nouns: frozenset[str]) -> bool:
        """Whether a kind of things that are called by these nouns is in it."""
        return nouns <= self.nouns if self.kind == SCENE else bool(nouns & self.nouns)


def pictures(stored: Pictures, photographs: Sequence[Photograph]) -> list[Shown]:
    """Validation photographs, training and validation pictures of the corpora; no test picture, and of Tux Paint, which
    is measured with its validation pictures too, training ones alone."""
    shown = [Shown(kind=p.kind, nouns=p.nouns, source=p) for p in photographs if not p.test]
    for corpus in sorted({line["corpus"] for line in stored.lines}):
        for split in ("train", "val"):
            if (corpus, split) != ("tuxpaint", "val"):
                lines = stored.choose(PER_SPLIT, corpus=corpus, split=split)
                shown += [Shown(kind=corpus, nouns=heads(line["nouns"]), line=line) for line in lines]
    return shown


def heads(names: Sequence[str]) -> frozenset[str]:
    """Names, and the last word of each."""
    return frozenset(word for name in names for word in (name, name.split()[-1]))


def fit_there(part: Everyday, said: Read, log_probs: Tensor, shown: list[Shown]) -> None:
    """Fit `there_gate`; scenes weigh as much as all corpora."""
    use = torch.tensor([each.kind != THING for each in shown])
    kinds = [each.kind for each in shown if each.kind != THING]
    right = labels([each for each in shown if each.kind != THING])
    corpora = len(set(kinds) - {SCENE})
    weights = torch.tensor([(1.0 if kind == SCENE else 1.0 / corpora) / kinds.count(kind) for kind in kinds])
    found, names, style = said.found[use], log_probs[use], part.style(said.summaries[use]).detach()

    def both() -> Tensor:
        chance = part.kinds_there(found, names, style).flatten()
        return torch.stack([chance, 1 - chance], dim=-1)

    flat = right.flatten()
    loss = fit_gate(part.there_gate, both, torch.stack([flat, ~flat], -1), weights.repeat_interleave(right.shape[1]))
    print(f"there_gate {[round(x, 4) for x in part.there_gate.tolist()]}, loss {loss:.4f}")


def labels(shown: list[Shown]) -> Tensor:
    """bool [N, K]: which of the detector's kinds each picture shows."""
    nouns = read_nouns()
    kinds = [nouns.get(kind.name, frozenset({kind.name})) for kind in read_kinds()]
    return torch.tensor([[each.holds(kind) for kind in kinds] for each in shown])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="output of prepare.py")
    parser.add_argument("scenes", type=Path, help="folder of COCO val2017")
    parser.add_argument("things", type=Path, help="folder with a photograph of each ImageNet class")
    args = parser.parse_args()
    model, stored = pm.load("mini").module, Pictures(args.data)
    shown = pictures(stored, [*scenes(args.scenes), *things(args.things)])
    connector = model.connectors["image"]
    said = read(model.encoders["image"], connector, [each.open(stored) for each in shown])
    said = Read(*(x.clone() for x in vars(said).values()))  # of inference mode
    part = connector.everyday
    with torch.no_grad():
        part.there_gate.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))
    fit_there(part, said, part(said.found, said.seen, said.learned, said.summaries).detach(), shown)
    file = read_safetensors(Path(components.TRAINED.name))
    tensors = {name: file[name] for name in file} | {GATE: part.there_gate.detach().half()}
    save_safetensors(tensors, Path(components.TRAINED.name), metadata=dict(file.metadata))


if __name__ == "__main__":
    main()
