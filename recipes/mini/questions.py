"""Questions about a picture and their answers, made from the lines of `pictures.jsonl`.

Flow: lines -> `Book` (which names are of which kind, which name lies above which)
      -> `ask(line, kind, book, rng)` -> `Question`, or None where the record does not support that kind
      -> `exam(lines, book, ...)`: balanced test questions with their chance level.
Kinds: what, describe, yes_no (half yes, half no; half of the wrong names are of the same kind of thing), which (2 to
4 options), colour (measured or stated), category.  Counting is left out: too few pictures tell a number.
Traps: a wrong name must be wrong: synonyms, broader and narrower names and everything in the record's key words are
       never used.  The names asked about in "no" questions are drawn from the names of the pictures asked about, so
       the question text alone does not tell the answer.
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
    """One question about the picture `picture`; `accepted` are lower-case answers that count as right."""

    picture: str
    row: int
    kind: str
    question: str
    answer: str
    accepted: tuple[str, ...]
    options: tuple[str, ...] = ()
    held_out_wording: bool = False
    hard: bool = False


class Book:
    """What the lines together know: the names of each kind of thing, how often each occurs, and which exclude
    each other.  weights: how often training shows each line, so that names are asked about in the same proportion.

    Names met in one drawing set of uneven quality only (openclipart) are never offered as wrong answers.
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
        self.offered = frozenset(name for name, found in sets.items() if found != {"openclipart"})
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
        """Is `name` surely not a right word for the picture?"""
        main = line["nouns"][0].lower()
        right = {noun.lower() for noun in (*line["nouns"], *line["broader"])} | set(line["above"])
        if line["kind"] == "person" and name in ANYBODY:
            return False
        if name in right or main in self.above.get(name, ()) or main in self.also.get(name, ()):
            return False
        said = {word for text in (line["caption"], *line["nouns"], *line["related"]) for word in _words(text)}
        own = _words(name) - {"flag", "letter", "number", "face", "sign", "zodiac"}  # the words a series shares
        return not own & said

    def distractor(self, line: Line, rng: random.Random, hard: bool, taken: Sequence[str] = ()) -> str | None:
        """A wrong name, of the same kind of thing if `hard`; None when none is found in a fair number of tries."""
        names, sums = self._pools.get(line["kind"], ([], [])) if hard else self._every
        for _ in range(40 if names else 0):
            name = rng.choices(names, cum_weights=sums)[0]
            if name not in taken and self.wrong(line, name) and not any(self._clash(name, other) for other in taken):
                return name
        return None

    def broad_wrong(self, line: Line, rng: random.Random) -> str | None:
        """A broad name that is wrong, drawn in the proportion in which broad names are right elsewhere."""
        close = set().union(*(group for group in CLOSE if line["kind"] in group)) | {line["kind"]}
        fit = [(name, weight) for (name, kind), weight in self._broad.items() if kind not in close]
        if line["kind"] is None or not fit:  # a thing of unknown kind may be anything
            return None
        return rng.choices([name for name, _ in fit], [weight for _, weight in fit])[0]

    def _clash(self, one: str, other: str) -> bool:
        return other in self.also[one] or other in self.above[one] or one in self.above[other]


def ask(line: Line, kind: str, book: Book, rng: random.Random, held_out: bool = False) -> Question | None:
    """One question of `kind` about the picture of `line`, or None when the record does not support it.

    held_out: use a wording that training never uses.
    """
    way = rng.choice(WAYS[kind][1 if held_out else 0])
    parts = _MAKERS[kind](line, way, book, rng)
    if parts is None:
        return None
    return Question(picture=line["id"], row=line["row"], kind=kind, held_out_wording=held_out, **parts)


def lesson(line: Line, book: Book, rng: random.Random, kinds: Sequence[str] = KINDS) -> Question:
    """One training question about the picture, of a kind drawn among those its record supports."""
    for kind in rng.sample(list(kinds), len(kinds)):
        if question := ask(line, kind, book, rng):
            return question
    question = ask(line, "what", book, rng)
    assert question is not None  # every picture has a name
    return question


def exam(lines: Sequence[Line], book: Book, seed: int = 0, size: int = 600) -> dict[str, list[Question]]:
    """At most `size` questions of each kind, the picture sets taking turns, half of them in unseen wordings.

    lines: test pictures only.  Yes/no questions come in pairs about one picture, one yes and one no, and every
    name is asked about as often with the answer yes as with the answer no (but for names without a fitting picture).
    """
    found: dict[str, list[Question]] = {"yes_no": _yes_no_exam(lines, book, random.Random(f"{seed}/yes_no"), size)}
    for kind in KINDS:
        rng = random.Random(f"{seed}/{kind}")
        for line in _in_turn(lines, rng) if kind != "yes_no" else ():
            asked = found.setdefault(kind, [])
            if len(asked) >= size:
                break
            if question := ask(line, kind, book, rng, held_out=len(asked) % 2 == 1):
                asked.append(question)
    return {kind: found.get(kind, []) for kind in KINDS}


def _yes_no_exam(lines: Sequence[Line], book: Book, rng: random.Random, size: int) -> list[Question]:
    chosen = [line for line in _in_turn(lines, rng) if line["nouns"][0].lower() in book.offered][: size // 2]
    waiting = [(line["nouns"][0].lower(), line["kind"]) for line in chosen]
    rng.shuffle(waiting)
    questions = []
    for place, line in enumerate(chosen):
        hard = place // 2 % 2 == 0
        same = [item for item in waiting if (item[1] == line["kind"]) == hard and book.wrong(line, item[0])]
        fit = same or [item for item in waiting if book.wrong(line, item[0])]
        if not fit:
            continue
        waiting.remove(fit[0])
        for name, word in ((line["name"], "yes"), (book.name[fit[0][0]], "no")):
            way = rng.choice(WAYS["yes_no"][place % 2])
            questions.append(
                Question(
                    picture=line["id"], row=line["row"], kind="yes_no", question=fill(way, name), answer=sentence(word),
                    accepted=(word,), options=("yes", "no"), held_out_wording=place % 2 == 1,
                    hard=word == "no" and fit[0][1] == line["kind"],
                )
            )  # fmt: skip
    return questions


def chance(questions: Sequence[Question]) -> float:
    """The share right of the best answer that never looks: a guess among options, or always the commonest answer."""
    if not questions:
        return 0.0
    guess = sum(1 / len(question.options) for question in questions if question.options) / len(questions)
    common = Counter(question.answer for question in questions).most_common(1)[0][1] / len(questions)
    return max(guess, common)


def right(question: Question, reply: str) -> bool:
    """Does a reply give the answer?  The words of an accepted answer must stand in it, and for a question with
    options none of the other options may."""
    said = f" {_plain(reply)} "
    hit = any(f" {_plain(answer)} " in said for answer in question.accepted)
    others = [_plain(option) for option in question.options if _plain(option) not in map(_plain, question.accepted)]
    if question.kind == "yes_no":
        return said.split()[:1] == [question.accepted[0]]
    return hit and not any(f" {other} " in said for other in others)


def _what(line: Line, way: str, book: Book, rng: random.Random) -> dict[str, Any]:
    return {"question": way, "answer": sentence(line["name"]), "accepted": _right_names(line)}


def _describe(line: Line, way: str, book: Book, rng: random.Random) -> dict[str, Any]:
    text = f"{STYLES.get(line['style'], 'A picture of')} {line['caption']}."
    return {"question": way, "answer": text, "accepted": _right_names(line)}


def _yes_no(line: Line, way: str, book: Book, rng: random.Random) -> dict[str, Any] | None:
    if line["nouns"][0].lower() not in book.offered:  # never offered as a wrong name, so the question would tell
        return None
    hard = rng.random() < 0.5
    if rng.random() < 0.5:
        upper = _broad_names(line)
        broad = bool(upper) and rng.random() < BROAD
        return _decided(way, with_article(rng.choice(upper)) if broad else line["name"], "yes", False)
    if rng.random() < BROAD * book.broad_share and (name := book.broad_wrong(line, rng)):
        return _decided(way, with_article(name), "no", False)
    other = book.distractor(line, rng, hard) or book.distractor(line, rng, False)
    return _decided(way, book.name[other], "no", hard) if other else None


def _broad_names(line: Line) -> list[str]:
    return sorted(BROADER.get(line["kind"], set()) & {*line["above"], line["kind"]})


def _broad_weights(
    lines: Sequence[Line], weights: Sequence[float] | None
) -> tuple[dict[tuple[str, str], float], float]:
    """(broad name, kind) -> how often it is a right answer, and the share of all pictures that have one."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    total = 0.0
    for line, weight in zip(lines, weights or [1.0] * len(lines), strict=True):
        total += weight
        upper = _broad_names(line)
        for name in upper:
            found[name, line["kind"]] += weight / len(upper)
    return found, sum(found.values()) / total if total else 0.0


def _decided(way: str, name: str, word: str, hard: bool) -> dict[str, Any]:
    return {
        "question": fill(way, name), "answer": sentence(word), "accepted": (word,), "options": ("yes", "no"),
        "hard": hard,
    }  # fmt: skip


def fill(way: str, name: str) -> str:
    """The wording with the name in it, in the plural where the name is one: "Is this {}?" -> "Are these scissors?"."""
    head = re.split(r" (?:of|with|in|on|and) ", name)[0]
    ends = (head.endswith("s") and not head.endswith("ss")) or head in ("people", "men", "women", "feet")
    if ends and not name.startswith(("a ", "an ", "the ")):
        for one, many in PLURAL:
            way = way.replace(one, many)
    return way.format(name)


def with_article(noun: str) -> str:
    """ "animal" -> "an animal"; "food" stays."""
    return noun if noun == "food" else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _which(line: Line, way: str, book: Book, rng: random.Random) -> dict[str, Any] | None:
    taken: list[str] = []
    for _ in range(rng.randint(1, 3)):
        other = book.distractor(line, rng, rng.random() < 0.5, taken) or book.distractor(line, rng, False, taken)
        if other is None:
            return None
        taken.append(other)
    options = [line["name"], *(book.name[name] for name in taken)]
    rng.shuffle(options)
    return {
        "question": way.format(_either(options)), "answer": sentence(line["name"]), "options": tuple(options),
        "accepted": tuple(dict.fromkeys([_plain(line["name"]), *_right_names(line)])),
    }  # fmt: skip


def _colour(line: Line, way: str, book: Book, rng: random.Random) -> dict[str, Any] | None:
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


def _category(line: Line, way: str, book: Book, rng: random.Random) -> dict[str, Any] | None:
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
    """All lines once: sets (and seen or unseen words within a set) take turns, each in random order."""
    groups: dict[tuple, list[Line]] = defaultdict(list)
    for line in lines:
        groups[(line["corpus"], line["split"], line["seen"])].append(line)
    queues = [rng.sample(group, len(group)) for _, group in sorted(groups.items(), key=lambda item: str(item[0]))]
    for place in range(max((len(queue) for queue in queues), default=0)):
        for queue in queues:
            if place < len(queue):
                yield queue[place]
