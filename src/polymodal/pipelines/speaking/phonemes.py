"""From text to the symbols that Kokoro was trained on: IPA in which diphthongs and affricates are one letter each.

    "Hello, world."  ->  həlˈO, wˈɜɹld.

The symbols follow the phonemizer of its training (misaki, https://github.com/hexgrad/misaki): its rules for what
eSpeak NG says.  Traps: American English has no length marks, British English has; a text is cut so that no piece has
more than 510 symbols, the model's context.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from polymodal.pipelines.speaking.espeak import TIE, ipa
from polymodal.pipelines.speaking.sentences import clauses, sentences, written_out

Ipa = Callable[[str, str], str]
"""(clause, language of eSpeak NG) -> IPA"""

CONTEXT = 510
USUAL = 200  # symbols of a piece, where sentences are that short: a piece of few symbols sounds hurried
CLAUSE = 300  # characters that are phonemized at once
LANGUAGES = {"a": "en-us", "b": "en", "e": "es", "f": "fr", "h": "hi", "i": "it", "p": "pt-br"}
"""first letter of a voice -> the name of eSpeak NG's file for its language ("en" is British)"""

# id of the first symbol of each run; the ids between are of letters that the published model does not use.
_RUNS = {
    1: ";:,.!?", 9: '—…"()“” ', 17: "\u0303ʣʥʦʨᵝꭧAI", 31: "O", 33: "Q", 35: "ST", 39: "W", 41: "Yᵊabcdef",
    50: "hijklmnopqrstuvwxyzɑɐɒæ", 75: "β", 76: "ɔɕç", 80: "ɖðʤə", 85: "ɚɛɜ", 90: "ɟ", 92: "ɡ", 99: "ɥ", 101: "ɨɪʝ",
    110: "ɯɰŋɳɲɴø", 118: "ɸθœ", 123: "ɹ", 125: "ɾɻ", 128: "ʁɽʂʃʈʧ", 135: "ʊʋ", 138: "ʌɣɤ", 142: "χʎ", 147: "ʒʔ",
    156: "ˈˌː", 162: "ʰ", 164: "ʲ", 169: "↓", 171: "→↗↘", 177: "ᵻ",
}  # fmt: skip
SYMBOLS = {symbol: first + place for first, run in _RUNS.items() for place, symbol in enumerate(run)}

_SOUNDS = {"a^ɪ": "I", "a^ʊ": "W", "d^z": "ʣ", "d^ʒ": "ʤ", "e^ɪ": "A", "t^s": "ʦ", "t^ʃ": "ʧ", "ɔ^ɪ": "Y"}
_ENGLISH = {"ʔˌn\u0329": "tᵊn", "ʔn\u0329": "tᵊn", "ʔn": "tᵊn", "ʔ": "t", "e": "A", "ə^l": "ᵊl", "ʲ": "", "ɚ": "əɹ",
            "r": "ɹ", "x": "k", "ç": "k", "ɐ": "ə", "ɬ": "l", "\u0303": "", "ɾ": "T"}  # fmt: skip
_SPELLINGS = {
    "a": {**_SOUNDS, **_ENGLISH, "o^ʊ": "O", "ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪə": "iə", "ː": ""},
    "b": {**_SOUNDS, **_ENGLISH, "e^ə": "ɛː", "iə": "ɪə", "ə^ʊ": "Q"},
}
_OTHER = {**_SOUNDS, "o^ʊ": "O", "ə^ʊ": "Q", "-": ""}


def spelling(sounds: str, accent: str) -> str:
    """IPA of eSpeak NG in Kokoro's symbols; what it has none for is left out.  accent: the voice's first letter."""
    table = _SPELLINGS.get(accent, _OTHER)
    if accent == "a":
        sounds = sounds.replace(f"{TIE}ɹ", "ɹ").replace("i^ə", "iə")  # near is i and ə here, two sounds
    longest_first = sorted(table, key=len, reverse=True)
    sounds = re.sub("|".join(map(re.escape, longest_first)), lambda found: table[found[0]], sounds)
    sounds = re.sub("(\\S)\u0329", r"ᵊ\1", sounds).replace(TIE, "")
    return "".join(symbol for symbol in sounds if symbol in SYMBOLS)


def phonemes(sentence: str, accent: str, ipa: Ipa = ipa) -> str:
    """The symbols of a sentence with its punctuation; accent: a key of LANGUAGES."""
    if accent in "ab":
        sentence = written_out(sentence)
    found = ""
    for clause, mark in clauses(sentence):
        for begin in range(0, len(clause), CLAUSE):
            found += " " + spelling(ipa(clause[begin : begin + CLAUSE], LANGUAGES[accent]), accent)
        found += f" {mark}" if mark in ("(", "“") else f"{mark} "
    found = " ".join(found.split())
    return re.sub(r"([(“]) ", r"\1", re.sub(r" ([;:,.!?…)”])", r"\1", found))


def pieces(text: str, accent: str, ipa: Ipa = ipa) -> Iterator[tuple[str, str]]:
    """A text as (its words, their symbols), a few sentences at a time, each at most CONTEXT symbols long.

    Sentences without a sound (a row of dots) are left out.
    """
    words = symbols = ""
    for sentence in sentences(text):
        more = phonemes(sentence, accent, ipa)
        if not any(symbol.isalpha() for symbol in more):
            continue
        if symbols and len(symbols) + len(more) + 1 > USUAL:
            yield words, symbols
            words = symbols = ""
        if len(more) > CONTEXT:
            yield from _cut(sentence, more)
            continue
        words, symbols = f"{words} {sentence}".strip(), f"{symbols} {more}".strip()
    if symbols:
        yield words, symbols


def _cut(sentence: str, symbols: str) -> Iterator[tuple[str, str]]:
    """A sentence that is too long, at its last comma or space that fits; its words come with the first part."""
    while len(symbols) > CONTEXT:
        head = symbols[:CONTEXT]
        end = max(head.rfind(mark) for mark in (", ", "; ", ": ", "— ")) + 1
        end = end if end > CONTEXT // 4 else head.rfind(" ") if " " in head else CONTEXT
        yield sentence, symbols[:end].strip()
        sentence, symbols = "", symbols[end:].strip()
    yield sentence, symbols
