"""Questions about an image and their answers, generated from the lines of `pictures.jsonl`.

Flow: lines -> `NameIndex` (names by category, hypernyms of names)
      -> `ask(line, kind, names, rng)` -> `Question`, or None if the record does not support that kind
      -> `test_set(lines, names, ...)`: balanced test questions with their chance level.
Kinds: what, describe, yes_no (half yes, half no; half of the wrong names are of the same category), which (2 to 4
options), colour (measured or stated), category.  There are no counting questions: too few records state a number.
Traps: a wrong name must be wrong: synonyms, broader and narrower names and all key words of the record are excluded.
       The names in "no" questions are sampled from the names of the images in the test set, so that the question text
       alone does not give the answer away.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from wordings import ANYBODY, BROAD, BROADER, CLOSE, KIND_NAMES, NO_COLOUR, PLURAL, SERIES, STYLES, WAYS

KINDS = ("what", "describe", "yes_no", "which", "colour", "category")
Line = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about the image with id `picture`; `accepted`: correct answers in lower case."""

    picture: str
    row: int
    kind: str
    question: str
    answer: str
    accepted: tuple[str, ...]
    options: tuple[str, ...] = ()
    held_out_wording: bool = False
    hard: bool = False


class NameIndex:
    """Names by category with their frequencies, and which names exclude each other.

    weights: sampling weight of each line in training, so that names are asked about in the same proportion.  Names that
    occur only in openclipart, whose quality varies, are never offered as wrong answers.
    """

    def __init__(self, lines: Sequence[Line], weights: Sequence[float] | None = None) -> None:
        self.name: dict[str, str] = {}
        self.above: dict[str, frozenset[str]] = {}
        self.also: dict[str, set[str]] = defaultdict(set)
        sets: dict[str, set[str]] = defaultdict(set)
        counts: dict[str | None, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for line, weight in zip(lines, weights or [1.0] * len(lines), strict=True):
            main = line["nouns"][0].lower()
            self.name.setdefault(main, line["name"])
            self.above[main] = self.above.get(main, frozenset()) | frozenset(line["above"])
            self.also[main].update(noun.lower() for noun in (*line["nouns"], *line["broader"]))
            sets[main].add(line["corpus"])
            counts[line["kind"]][main] += weight
        self.offered = frozenset(name for name, corpora in sets.items() if corpora != {"openclipart"})
        self._pools: dict[str | None, tuple[list[str], list[float]]] = {}
        every: dict[str, float] = defaultdict(float)
        for kind, names in counts.items():
            kept = {name: count for name, count in names.items() if name in self.offered}
            self._pools[kind] = (list(kept), list(accumulate(kept.values())))
            if kind not in SERIES:
                for name, count in kept.items():
                    every[name] += count
        self._every = (list(every), list(accumulate(every.values())))
        self._broad, self.broad_share = _broad_weights(lines, weights)

    def wrong(self, line: Line, name: str) -> bool:
        """Whether `name` is certainly wrong for the image."""
        main = line["nouns"][0].lower()
        right = {noun.lower() for noun in (*line["nouns"], *line["broader"])} | set(line["above"])
        if line["kind"] == "person" and name in ANYBODY:
            return False
        if name in right or main in self.above.get(name, ()) or main in self.also.get(name, ()):
            return False
        words = {word for text in (line["caption"], *line["nouns"], *line["related"]) for word in _words(text)}
        name_words = _words(name) - {"flag", "letter", "number", "face", "sign", "zodiac"}  # shared by whole series
        return not name_words & words

    def distractor(self, line: Line, rng: random.Random, hard: bool, taken: Sequence[str] = ()) -> str | None:
        """A wrong name, of the same category if `hard`; None if 40 tries find none."""
        names, sums = self._pools.get(line["kind"], ([], [])) if hard else self._every
        for _ in range(40 if names else 0):
            name = rng.choices(names, cum_weights=sums)[0]
            if name not in taken and self.wrong(line, name) and not any(self._clash(name, other) for other in taken):
                return name
        return None

    def broad_wrong(self, line: Line, rng: random.Random) -> str | None:
        """A wrong broad name ("an animal"), sampled in proportion to how often it is correct for other images."""
        close = set().union(*(group for group in CLOSE if line["kind"] in group)) | {line["kind"]}
        candidates = [(name, weight) for (name, kind), weight in self._broad.items() if kind not in close]
        if line["kind"] is None or not candidates:  # without a category, any broad name may be correct
            return None
        return rng.choices([name for name, _ in candidates], [weight for _, weight in candidates])[0]

    def _clash(self, one: str, other: str) -> bool:
        return other in self.also[one] or other in self.above[one] or one in self.above[other]


def ask(line: Line, kind: str, names: NameIndex, rng: random.Random, held_out: bool = False) -> Question | None:
    """One question of `kind` about the image of `line`, or None if the record does not support it.

    held_out: use a wording that is not used in training.
    """
    way = rng.choice(WAYS[kind][1 if held_out else 0])
    parts = _MAKERS[kind](line, way, names, rng)
    if parts is None:
        return None
    return Question(picture=line["id"], row=line["row"], kind=kind, held_out_wording=held_out, **parts)


def training_question(line: Line, names: NameIndex, rng: random.Random, kinds: Sequence[str] = KINDS) -> Question:
    """One training question about the image, of a random kind that its record supports."""
    for kind in rng.sample(list(kinds), len(kinds)):
        if question := ask(line, kind, names, rng):
            return question
    question = ask(line, "what", names, rng)
    assert question is not None  # every image has a name
    return question


def test_set(lines: Sequence[Line], names: NameIndex, seed: int = 0, size: int = 600) -> dict[str, list[Question]]:
    """At most `size` questions of each kind, alternating between corpora, half of them in held-out wordings.

    lines: test images only.  Yes/no questions come in pairs about one image, one yes and one no, and every name has as
    many questions with the answer yes as with the answer no (except names without a suitable image).
    """
    yes_no = _yes_no_test_set(lines, names, random.Random(f"{seed}/yes_no"), size)
    by_kind: dict[str, list[Question]] = {"yes_no": yes_no}
    for kind in KINDS:
        rng = random.Random(f"{seed}/{kind}")
        for line in _in_turn(lines, rng) if kind != "yes_no" else ():
            asked = by_kind.setdefault(kind, [])
            if len(asked) >= size:
                break
            if question := ask(line, kind, names, rng, held_out=len(asked) % 2 == 1):
                asked.append(question)
    return {kind: by_kind.get(kind, []) for kind in KINDS}


def _yes_no_test_set(lines: Sequence[Line], names: NameIndex, rng: random.Random, size: int) -> list[Question]:
    selected = [line for line in _in_turn(lines, rng) if line["nouns"][0].lower() in names.offered][: size // 2]
    unused = [(line["nouns"][0].lower(), line["kind"]) for line in selected]
    rng.shuffle(unused)
    questions = []
    for index, line in enumerate(selected):
        hard = index // 2 % 2 == 0
        same = [item for item in unused if (item[1] == line["kind"]) == hard and names.wrong(line, item[0])]
        wrong = same or [item for item in unused if names.wrong(line, item[0])]
        if not wrong:
            continue
        unused.remove(wrong[0])
        for name, word in ((line["name"], "yes"), (names.name[wrong[0][0]], "no")):
            way = rng.choice(WAYS["yes_no"][index % 2])
            questions.append(
                Question(
                    picture=line["id"], row=line["row"], kind="yes_no", question=fill(way, name), answer=sentence(word),
                    accepted=(word,), options=("yes", "no"), held_out_wording=index % 2 == 1,
                    hard=word == "no" and wrong[0][1] == line["kind"],
                )
            )  # fmt: skip
    return questions


def chance(questions: Sequence[Question]) -> float:
    """Accuracy of the best answer that ignores the image: a random option, or always the most common answer."""
    if not questions:
        return 0.0
    guess = sum(1 / len(question.options) for question in questions if question.options) / len(questions)
    common = Counter(question.answer for question in questions).most_common(1)[0][1] / len(questions)
    return max(guess, common)


def is_correct(question: Question, reply: str) -> bool:
    """Whether a reply answers the question: it contains an accepted answer and, with options, none of the others."""
    text = f" {_plain(reply)} "
    hit = any(f" {_plain(answer)} " in text for answer in question.accepted)
    others = [_plain(option) for option in question.options if _plain(option) not in map(_plain, question.accepted)]
    if question.kind == "yes_no":
        return text.split()[:1] == [question.accepted[0]]
    return hit and not any(f" {other} " in text for other in others)


def _what(line: Line, way: str, names: NameIndex, rng: random.Random) -> dict[str, Any]:
    return {"question": way, "answer": sentence(line["name"]), "accepted": _right_names(line)}


def _describe(line: Line, way: str, names: NameIndex, rng: random.Random) -> dict[str, Any]:
    text = f"{STYLES.get(line['style'], 'A picture of')} {line['caption']}."
    return {"question": way, "answer": text, "accepted": _right_names(line)}


def _yes_no(line: Line, way: str, names: NameIndex, rng: random.Random) -> dict[str, Any] | None:
    if line["nouns"][0].lower() not in names.offered:  # never a wrong name, so the question would give the answer away
        return None
    hard = rng.random() < 0.5
    if rng.random() < 0.5:
        upper = _broad_names(line)
        broad = bool(upper) and rng.random() < BROAD
        return _decided(way, with_article(rng.choice(upper)) if broad else line["name"], "yes", False)
    if rng.random() < BROAD * names.broad_share and (name := names.broad_wrong(line, rng)):
        return _decided(way, with_article(name), "no", False)
    other = names.distractor(line, rng, hard) or names.distractor(line, rng, False)
    return _decided(way, names.name[other], "no", hard) if other else None


def _broad_names(line: Line) -> list[str]:
    return sorted(BROADER.get(line["kind"], set()) & {*line["above"], line["kind"]})


def _broad_weights(
    lines: Sequence[Line], weights: Sequence[float] | None
) -> tuple[dict[tuple[str, str], float], float]:
    """(broad name, category) -> how often it is correct, and the share of images that have a broad name."""
    counts: dict[tuple[str, str], float] = defaultdict(float)
    total = 0.0
    for line, weight in zip(lines, weights or [1.0] * len(lines), strict=True):
        total += weight
        upper = _broad_names(line)
        for name in upper:
            counts[name, line["kind"]] += weight / len(upper)
    return counts, sum(counts.values()) / total if total else 0.0


def _decided(way: str, name: str, word: str, hard: bool) -> dict[str, Any]:
    return {
        "question": fill(way, name), "answer": sentence(word), "accepted": (word,), "options": ("yes", "no"),
        "hard": hard,
    }  # fmt: skip


def fill(way: str, name: str) -> str:
    """The wording with the name inserted, in the plural for plural names: "Is this {}?" -> "Are these scissors?"."""
    head = re.split(r" (?:of|with|in|on|and) ", name)[0]
    ends = (head.endswith("s") and not head.endswith("ss")) or head in ("people", "men", "women", "feet")
    if ends and not name.startswith(("a ", "an ", "the ")):
        for one, many in PLURAL:
            way = way.replace(one, many)
    return way.format(name)


def with_article(noun: str) -> str:
    """ "animal" -> "an animal"; "food" stays."""
    return noun if noun == "food" else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _which(line: Line, way: str, names: NameIndex, rng: random.Random) -> dict[str, Any] | None:
    taken: list[str] = []
    for _ in range(rng.randint(1, 3)):
        other = names.distractor(line, rng, rng.random() < 0.5, taken) or names.distractor(line, rng, False, taken)
        if other is None:
            return None
        taken.append(other)
    options = [line["name"], *(names.name[name] for name in taken)]
    rng.shuffle(options)
    return {
        "question": way.format(_either(options)), "answer": sentence(line["name"]), "options": tuple(options),
        "accepted": tuple(dict.fromkeys([_plain(line["name"]), *_right_names(line)])),
    }  # fmt: skip


def _colour(line: Line, way: str, names: NameIndex, rng: random.Random) -> dict[str, Any] | None:
    colour = line["colour"]
    if colour is None or line["kind"] in NO_COLOUR:
        return None
    single = line["name"].startswith(("a ", "an "))
    if "{}" in way:
        way = way.format(f"the {line['name'].split(' ', 1)[1]}" if single else "it")
    if colour == "grey" and "color" in way:
        return {"question": way, "answer": "Gray.", "accepted": ("gray", "grey")}
    accepted = ("grey", "gray") if colour == "grey" else (colour,)
    return {"question": way, "answer": sentence(colour), "accepted": accepted}


def _category(line: Line, way: str, names: NameIndex, rng: random.Random) -> dict[str, Any] | None:
    kind = line["kind"]
    if kind not in KIND_NAMES:
        return None
    close = set().union(*(group for group in CLOSE if kind in group)) | {kind}
    others = rng.sample([other for other in KIND_NAMES if other not in close], 2)
    options = [KIND_NAMES[other] for other in (kind, *others)]
    rng.shuffle(options)
    return {
        "question": way.format(_either(options)), "answer": sentence(KIND_NAMES[kind]), "options": tuple(options),
        "accepted": (kind,),
    }  # fmt: skip


_MAKERS = {
    "what": _what, "describe": _describe, "yes_no": _yes_no, "which": _which, "colour": _colour, "category": _category
}  # fmt: skip


def sentence(text: str) -> str:
    """ "a cat" -> "A cat." """
    return f"{text[:1].upper()}{text[1:]}."


def _right_names(line: Line) -> tuple[str, ...]:
    return tuple(dict.fromkeys(noun.lower() for noun in line["nouns"]))


def _either(options: Sequence[str]) -> str:
    return f"{', '.join(options[:-1])} or {options[-1]}"


def _plain(text: str) -> str:
    kept = "".join(sign if sign.isalnum() else " " for sign in text.lower())
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


def _words(text: str) -> set[str]:
    return {word.removesuffix("s") for word in _plain(text).split() if len(word) > 2} or {text}


def _in_turn(lines: Sequence[Line], rng: random.Random) -> Iterator[Line]:
    """All lines once, alternating between groups (corpus, split, seen or unseen words), each in random order."""
    groups: dict[tuple, list[Line]] = defaultdict(list)
    for line in lines:
        groups[(line["corpus"], line["split"], line["seen"])].append(line)
    queues = [rng.sample(group, len(group)) for _, group in sorted(groups.items(), key=lambda item: str(item[0]))]
    for index in range(max((len(queue) for queue in queues), default=0)):
        for queue in queues:
            if index < len(queue):
                yield queue[index]
