"""English words from WordNet 3.0 (database files of the package `wordnet-base`): what is a noun, what kind of thing.

Flow: index.noun (lemma -> senses), data.noun (sense -> lemmas with their case, parents), noun.exc (odd plurals)
      -> `Lexicon.base` (singular), `concrete` (can it be drawn?), `kind` (animal, food ...), `is_a`.
Traps: senses that are single individuals (Stephen Crane) are skipped; the most common sense
       comes first, so "mouse" is an animal; kinds look at the first senses only.
Source of the file format: the manual page wndb(5WN) shipped with WordNet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from corpora.wordlists import word_set
from polymodal.errors import MediaError

# kind -> the WordNet lemma and sense number (1 = first) under which its things lie; the order breaks ties
_ROOTS: tuple[tuple[str, str, int], ...] = (
    ("person", "person", 1),
    ("animal", "animal", 1),
    ("vehicle", "vehicle", 1),
    ("musical instrument", "musical instrument", 1),
    ("clothing", "clothing", 1),
    ("clothing", "footwear", 1),
    ("clothing", "hat", 1),
    ("furniture", "furniture", 1),
    ("building", "building", 1),
    ("food", "food", 1),
    ("food", "food", 2),
    ("food", "fruit", 1),
    ("food", "beverage", 1),
    ("plant", "plant", 2),
    ("plant", "flower", 1),
    ("body part", "body part", 1),
    ("tool", "tool", 1),
    ("tool", "weapon", 1),
)
KINDS = (*dict.fromkeys(kind for kind, _, _ in _ROOTS), "face", "flag", "sign", "letter", "number")
# WordNet lexicographer files of things one can draw: animal, artifact, body, food, location, object, person,
# phenomenon, plant, shape, substance
_CONCRETE = frozenset({5, 6, 8, 13, 15, 17, 18, 19, 20, 25, 27})
_ENDINGS = (
    ("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("xes", "x"), ("zes", "z"), ("men", "man"), ("s", "")
)  # fmt: skip
_PLURAL_ONLY = word_set(
    "scissors pliers tweezers binoculars headphones earphones jeans shorts trousers pants sunglasses glasses "
    "goggles overalls pajamas tights clothes fireworks stairs people chopsticks spectacles handcuffs noodles "
    "fries tongs shears slacks men women children teeth feet geese mice"
)


# where the dictionary's first senses are not what pictures show
_SHOWN: dict[str | None, str] = {
    "vehicle": "bus,school bus,van,firetruck,fire truck,fire engine,train,hot air balloon,hummer,sailboat,spaceship",
    "food": "carrot,onion,cake,asparagus,egg,sandwich,lemon,cherry,tomato,pumpkin,corn,garlic,coconut,chestnut,pepper",
    "tool": "hammer,saw,rake,screw,wrench",
    "building": "church,lighthouse,jail,windmill,mosque,factory,school,stadium",
    "clothing": "shoe,flip flops,helmet,crown,belt,boot,sandal,high heels,hat,cap,glove,tie,necktie,scarf",
    "animal": "raccoon,lobster,octopus,crab,shrimp,squid,turkey,chicken,duck,tiger,eagle,fox,oyster",
    "furniture": "table,desk,bookcase,lamp",
    "person": "man,woman,boy,girl,baby,child,doctor,nurse,teacher,king,queen,soldier,police officer,farmer,pilot,clown",
    None: "mushroom,monitor,calculator,toaster,computer,printer,jack,marker,lighter,cleaner,mixer,dragon,ghost",
}
_KIND_OF = {word: kind for kind, words in _SHOWN.items() for word in words.split(",")}


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Noun senses and the set of all other English words; build with `read`."""

    senses: dict[str, tuple[int, ...]]
    parents: dict[int, tuple[int, ...]]
    files: dict[int, int]
    lemmas: dict[int, tuple[str, ...]]
    plurals: dict[str, str]
    others: frozenset[str]
    _ancestors: dict[int, frozenset[int]] = field(default_factory=dict, repr=False, compare=False)

    def base(self, phrase: str) -> str | None:
        """The singular dictionary form of a noun phrase in lower case, or None when WordNet does not have it."""
        phrase = phrase.lower().replace("-", " ") if phrase.lower() not in self.senses else phrase.lower()
        if phrase in self.senses:
            return phrase
        head, _, last = phrase.rpartition(" ")
        prefix = f"{head} " if head else ""
        if last in self.plurals and prefix + self.plurals[last] in self.senses:
            return prefix + self.plurals[last]
        for ending, single in _ENDINGS:
            if last.endswith(ending) and prefix + last[: len(last) - len(ending)] + single in self.senses:
                return prefix + last[: len(last) - len(ending)] + single
        return None

    def is_word(self, word: str) -> bool:
        """Is this an English word that is not only a proper name?"""
        word = word.lower()
        return word in self.others or (self.base(word) is not None and not self.proper(word))

    def proper(self, phrase: str) -> bool:
        """Does the dictionary write it with a capital in its first sense?"""
        return self.base(phrase) is not None and self.cased(phrase)[:1].isupper()

    def cased(self, phrase: str) -> str:
        """The dictionary's way of writing a phrase ("Siamese cat"); the phrase itself when it is not there."""
        base = self.base(phrase)
        if base is None or base != phrase.lower():
            return phrase.lower() if base else phrase
        options = [lemma for lemma in self.lemmas[self.senses[base][0]] if lemma.lower() == base]
        return options[0] if options else phrase

    def plural(self, word: str) -> bool:
        """Does this single word name several things (so takes no "a")?"""
        word = word.lower()
        if word in _PLURAL_ONLY or (word in self.plurals and word not in self.senses):
            return True
        if not word.endswith("s") or word.endswith(("ss", "us", "is")):
            return False
        base = self.base(word[:-2] if word.endswith(("ches", "shes", "xes", "sses")) else word[:-1])
        return base is not None or (word not in self.senses and self.base(word) is not None)

    def concrete(self, phrase: str, senses: int = 2) -> bool:
        """Is one of its first senses a thing that can be drawn?"""
        base = self.base(phrase)
        return base is not None and any(self.files[sense] in _CONCRETE for sense in self._first(base, senses))

    def kind(self, phrase: str) -> str | None:
        """The broad kind of its first drawable sense."""
        base = self.base(phrase)
        if base is None:
            return None
        if base in _KIND_OF:
            return _KIND_OF[base]
        first = self._first(base, 2)
        kinds = [self._kind_of(sense) for sense in first]
        if "food" in kinds and "plant" in kinds:  # the banana is drawn more often than its plant
            return "food"
        if set(kinds) == {"person"} or not kinds:
            return "person" if kinds else None
        things = [kind for kind in kinds if kind != "person"]
        return things[0]

    def _kind_of(self, sense: int) -> str | None:
        above = self._above(sense)
        return next((kind for kind, root in self._kinds if root in above), None)

    def is_a(self, phrase: str, broader: str) -> bool:
        """Is `broader` (any sense) above one of the first two senses of `phrase`?"""
        low, high = self.base(phrase), self.base(broader)
        if low is None or high is None:
            return False
        wanted = set(self.senses[high])
        return any(wanted & self._above(sense) for sense in self._first(low, 2))

    def above(self, phrase: str) -> frozenset[str]:
        """All names (lower case) of the things that one of its first two senses is a kind of, itself left out."""
        base = self.base(phrase)
        if base is None:
            return frozenset()
        senses = self._first(base, 2)
        upper = {place for sense in senses for place in self._above(sense) if place not in senses}
        return frozenset(lemma.lower() for place in upper for lemma in self.lemmas[place]) - {base}

    def synonyms(self, phrase: str) -> tuple[str, ...]:
        """Other words whose first sense is the first drawable sense of this one: "car" -> "automobile", "auto"."""
        base = self.base(phrase)
        first = self._first(base, 1) if base else ()
        if not first or self.files[first[0]] not in _CONCRETE:
            return ()
        lemmas = [lemma for lemma in self.lemmas[first[0]] if lemma != base and lemma == lemma.lower()]
        return tuple(lemma for lemma in lemmas if self._first(lemma, 1) == first and len(lemma) > 2)

    def _first(self, base: str, count: int) -> tuple[int, ...]:
        return tuple(sense for sense in self.senses[base] if self.parents.get(sense))[:count]

    @cached_property
    def _kinds(self) -> tuple[tuple[str, int], ...]:
        found = ((kind, self.senses.get(lemma, ()), number) for kind, lemma, number in _ROOTS)
        return tuple((kind, senses[number - 1]) for kind, senses, number in found if len(senses) >= number)

    def _above(self, sense: int) -> frozenset[int]:
        if sense not in self._ancestors:
            found: set[int] = set()
            queue = [sense]
            while queue:
                here = queue.pop()
                if here not in found:
                    found.add(here)
                    queue.extend(self.parents.get(here, ()))
            self._ancestors[sense] = frozenset(found)
        return self._ancestors[sense]


def read(folder: str | Path) -> Lexicon:
    """Read WordNet below `folder` (the package's root).  Raises MediaError when the database is not there."""
    place = next((p.parent for p in sorted(Path(folder).glob("**/index.noun"))), None)
    if place is None:
        raise MediaError(f"no WordNet database (index.noun) below {folder}; unpack the package wordnet-base there")
    senses = {lemma: offsets for lemma, offsets in map(_index_line, _lines(place / "index.noun"))}
    parents, files, lemmas = {}, {}, {}
    for line in _lines(place / "data.noun"):
        fields = line.split("|", 1)[0].split()
        offset, words = int(fields[0]), int(fields[3], 16)
        files[offset] = int(fields[1])
        lemmas[offset] = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(words))
        rest = fields[5 + 2 * words :]
        parents[offset] = tuple(int(rest[i + 1]) for i in range(0, len(rest) - 3, 4) if rest[i] == "@")
    pairs = (line.replace("_", " ").split() for line in _lines(place / "noun.exc"))
    plurals = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    others = {_index_line(line)[0] for part in ("verb", "adj", "adv") for line in _lines(place / f"index.{part}")}
    return Lexicon(
        senses=senses, parents=parents, files=files, lemmas=lemmas, plurals=plurals, others=frozenset(others)
    )


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line and not line.startswith("  ")]  # licence lines are indented


def _index_line(line: str) -> tuple[str, tuple[int, ...]]:
    fields = line.split()
    count = int(fields[2])
    return fields[0].replace("_", " "), tuple(int(offset) for offset in fields[-count:])
