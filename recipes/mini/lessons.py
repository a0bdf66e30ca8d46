"""Questions for `several.py` and its measuring: about several things, about what nobody can tell, and their answers."""

from __future__ import annotations

import random
from collections.abc import Sequence

from photographs import read_kinds, read_nouns
from questions import NameIndex, sentence, training_question, with_article
from wordings import NEAR, SERIES, SEVERAL, UNKNOWN, WAYS

LISTED = 0.4  # chance of a kind of thing from which on it is listed
MOST = 4  # things of one answer
OWN = 3  # questions about a picture that the released model answers
OWN_WEIGHTS = {"what": 3, "near": 2, "describe": 1, "yes_no": 4, "which": 2, "colour": 1.5, "category": 1}


def own_questions(line: dict | None, names: NameIndex, near: Sequence[str], rng: random.Random) -> list[str]:
    """Questions about a picture that the released model answers itself, the first of them what it is.

    line: of the picture, if it is one of a corpus; near: its name and the likeliest kinds of things.
    """
    ways = {"what": [way for way in WAYS["what"][0] if way not in SEVERAL[0]], "near": NEAR[0],
            "describe": WAYS["describe"][0]}  # fmt: skip
    asked = [rng.choice(ways["what"])]
    for kind in rng.choices(list(OWN_WEIGHTS), weights=list(OWN_WEIGHTS.values()), k=OWN - 1):
        if kind in ways:
            asked.append(rng.choice(ways[kind]).format(n=rng.choice(near)))
        elif line is not None:
            asked.append(training_question(line, names, rng, (kind,)).question)
        else:
            asked.append(about_things(kind, near, rng))
    return asked


def about_things(kind: str, near: Sequence[str], rng: random.Random) -> str:
    """A question about a photograph: half of the things asked about are among the likeliest."""
    every = [each.word for each in read_kinds()]
    drawn = lambda: with_article(rng.choice(near) if rng.random() < 0.5 else rng.choice(every))  # noqa: E731
    if kind == "yes_no":
        return rng.choice(WAYS["yes_no"][0]).format(drawn())
    if kind == "which":
        return rng.choice(WAYS["which"][0]).format(f"{drawn()}, {drawn()} or {with_article(near[0])}")
    return rng.choice(WAYS["colour"][0]).format(f"the {near[0]}")


def unknown_question(line: dict | None, first: str, ways: int, rng: random.Random) -> str:
    """A question that mini cannot answer; ways: 0 for a training wording, 1 for one that is held out.

    line: of the picture, if it is one of a corpus; first: the name of what it shows.
    """
    series = line is not None and line["kind"] in SERIES  # letters, numbers and flags can be named
    kinds = [kind for kind in UNKNOWN if UNKNOWN[kind][ways] and not (series and kind in ("read", "who", "place"))]
    noun = first if rng.random() < 0.6 else rng.choice(read_kinds()).word
    return rng.choice(UNKNOWN[rng.choice(kinds)][ways]).format(n=noun, s=plural(noun))


def plural(noun: str) -> str:
    """ "bus" -> "buses"; good enough for the nouns of questions."""
    special = {"person": "people", "man": "men", "woman": "women", "child": "children", "sheep": "sheep",
               "mouse": "mice", "skis": "skis", "scissors": "scissors", "broccoli": "broccoli",
               "knife": "knives"}  # fmt: skip
    if noun in special:
        return special[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def listed(first: str, chances: Sequence[float]) -> list[str]:
    """The answer's names: the first with its article, and the kinds that are there and that it does not name."""
    nouns, names = read_nouns(), [first]
    said = set(first.lower().split())
    for chance, kind in sorted(zip(chances, read_kinds(), strict=True), key=lambda pair: -pair[0]):
        if chance < LISTED or len(names) == MOST:
            break
        if not said & (nouns.get(kind.name, frozenset({kind.name})) | {kind.word}):
            names.append(kind.word if kind.word in ("skis", "scissors", "broccoli") else with_article(kind.word))
            said.add(kind.word)
    return names


def together(names: Sequence[str]) -> str:
    """["a dog", "a sofa", "a person"] -> "A dog, a sofa and a person." """
    return sentence(" and ".join(filter(None, [", ".join(names[:-1]), names[-1]])))


def bare(answer: str) -> str:
    """ "A red car." -> "red car": a name as a question can say it."""
    name = answer.strip().rstrip(".").lower()
    return name.removeprefix("a ").removeprefix("an ").removeprefix("the ") or "thing"


def article(answer: str) -> str:
    """ "A dog." -> "a dog" """
    name = answer.strip().rstrip(".")
    return name[:1].lower() + name[1:]
