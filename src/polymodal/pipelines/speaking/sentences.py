"""Text as it is spoken: what stands for words is written out, long text is cut where a speaker would breathe.

    "It cost $3.50, Mr. Smith."  ->  "It cost 3 dollars and 50 cents, Mister Smith."        (written_out, English)
    ->  [("It cost 3 dollars and 50 cents", ","), ("Mister Smith", ".")]                    (clauses)
Numbers are left to the phonemizer, which knows those of every language.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SAME = str.maketrans({"‘": "'", "’": "'", "«": "“", "»": "”", "„": "“", "–": "—", "、": ",", "，": ",", "。": ".",
                       "！": "!", "？": "?", "：": ":", "；": ";", "¿": None, "¡": None})  # fmt: skip
_TITLES = {"mr": "Mister", "mrs": "Missus", "ms": "Miz", "dr": "Doctor", "prof": "Professor", "st": "Saint",
           "no": "number", "vs": "versus", "etc": "et cetera", "jr": "junior", "sr": "senior"}  # fmt: skip
_COINS = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
_TITLE = re.compile(r"\b(" + "|".join(_TITLES) + r")\.(?=\s+\S|$)", re.IGNORECASE)
_MONEY = re.compile(r"([$£€])(\d[\d,]*)(?:\.(\d\d))?(?![\d.]*\d)(\s+(?:thousand|million|billion|trillion)\b)?")
_CLOCK = re.compile(r"\b([01]?\d|2[0-3]):([0-5]\d)\b")
_YEAR = re.compile(r"(?<![\d,.:$£€])(1[1-9]|20)(\d\d)(?![\d,:]*\d|\.\d)")
_END = re.compile(r"(?<=[.!?…])[\"”')\]]*\s+|\n\s*\n")
_OPENING = re.compile(r'(?:^|(?<=[\s(—]))"')
# A mark is one unless it stands inside a number, a name or an abbreviation: 3.5, 10,000, U.S.A., J. Smith, example.org.
_MARK = re.compile(r"[;!?—…()“”]|[,:](?=[\s;:,.!?—…()“”]|$)|(?<![\s.][A-Z])\.(?=[\s;:,.!?—…()“”]|$)|\.(?=[“”)]*$)")


def written_out(text: str) -> str:
    """English text with titles, money, years and times of day as words and numbers that are read one by one."""
    text = re.sub(r"\be\.g\.", "for example", re.sub(r"\bi\.e\.", "that is", text))
    text = _TITLE.sub(lambda found: _titled(found[0]), text)
    text = _MONEY.sub(_money, text)
    text = _CLOCK.sub(lambda t: f"{t[1]} {_minutes(t[2])}", text)
    return _YEAR.sub(_year, text)


def _titled(word: str) -> str:
    name = word.rstrip(".").lower()
    # "No." and "St." begin with a capital where they are titles; "no." ends a sentence.
    return word if name in ("no", "st") and word[0].islower() else _TITLES[name]


def _money(found: re.Match[str]) -> str:
    unit, coin = _COINS[found[1]]
    if found[4]:
        return f"{found[2]}{found[4]} {unit}s"
    whole = f"{found[2]} {unit}{'' if found[2] == '1' else 's'}"
    if not found[3] or found[3] == "00":
        return whole
    coins = coin if found[3] == "01" else {"penny": "pence"}.get(coin, f"{coin}s")
    return f"{whole} and {int(found[3])} {coins}"


def _minutes(minutes: str) -> str:
    return "o'clock" if minutes == "00" else f"oh {minutes[1]}" if minutes[0] == "0" else minutes


def _year(found: re.Match[str]) -> str:
    century, rest = found[1], found[2]
    if rest == "00":
        return found[0] if century == "20" else f"{century} hundred"
    if century == "20" and rest[0] == "0":
        return found[0]
    return f"{century} {rest}" if rest[0] != "0" else f"{century} oh {rest[1]}"


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, and its paragraphs where those end without a mark."""
    begin = 0
    for end in _END.finditer(text):
        if _is_initial(text[begin : end.start()]):
            continue
        if sentence := " ".join(text[begin : end.end()].split()):
            yield sentence
        begin = end.end()
    if sentence := " ".join(text[begin:].split()):
        yield sentence


def _is_initial(text: str) -> bool:
    """Whether it ends with "J." or "U.S.A.", which end no sentence as a rule."""
    return bool(re.search(r"(?:^|[\s.])[A-Z]\.$", text)) and not text.endswith(" I.")


def clauses(sentence: str) -> list[tuple[str, str]]:
    """The parts of a sentence between punctuation marks, each with the mark behind it ("" at the end)."""
    sentence = " " + sentence.translate(_SAME).replace("...", "…").replace("--", "—")
    sentence = _OPENING.sub("“", sentence).replace('"', "”")
    found, begin = [], 0
    for mark in _MARK.finditer(sentence):
        found.append((sentence[begin : mark.start()].strip(), mark[0]))
        begin = mark.end()
    return [*found, (sentence[begin:].strip(), "")]
