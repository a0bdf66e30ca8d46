"""The names `mini` may give a picture: visible things of WordNet, joined with the nouns it was trained on.

WordNet (Debian `wordnet-base`, Princeton licence) is read for its nouns only: the first sense of a word must lie
in a file of visible things (animal, artifact, body, food, object, person, phenomenon, plant, shape, substance), and
the word must be common: counted in the tagged corpora, or a single token of the language model.  Test pictures play
no part in the choice, so a name that WordNet lacks and training never saw cannot be given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

VISIBLE = {"05": "animal", "06": "artifact", "08": "body", "13": "food", "17": "object", "19": "phenomenon",
           "20": "plant", "25": "shape", "27": "substance"}
PLAIN = re.compile(r"[a-z]+( [a-z]+)?$")


def wordnet_nouns(folder: Path) -> dict[str, tuple[str, int]]:
    """{noun: (kind, times counted)} of the words whose first sense is a visible thing."""
    kinds = {}
    for line in (folder / "data.noun").read_text("utf-8").splitlines():
        if not line.startswith(" "):
            offset, file, _ = line.split(" ", 2)
            kinds[offset] = file
    counts: dict[str, int] = {}
    for line in (folder / "cntlist.rev").read_text("utf-8").splitlines():
        key, sense, count = line.split()
        word, rest = key.split("%")
        if rest.startswith("1:") and sense == "1":
            counts[word] = int(count)
    nouns = {}
    for line in (folder / "index.noun").read_text("utf-8").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        word, senses = fields[0], int(fields[2])
        first = fields[-senses]
        name = word.replace("_", " ")
        if kinds[first] in VISIBLE and PLAIN.match(name) and len(name) > 2:
            nouns[name] = (VISIBLE[kinds[first]], counts.get(word, 0))
    return nouns


def vocabulary(wordnet: Path, trained: Iterable[str], tokens: Callable[[str], int], limit: int = 4) -> list[str]:
    """The sorted names: common visible nouns and `trained`, each at most `limit` tokens of the language model."""
    chosen = {n for n, (_, count) in wordnet_nouns(wordnet).items()
              if count > 0 or (" " not in n and tokens(n) == 1)}
    return sorted(n for n in chosen | set(trained) if n and tokens(n) <= limit)
