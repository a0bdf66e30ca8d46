"""Words and numbers as people read them: what is printed for characters that would act instead of being read.

    name, label, config, answer of a hub or a model  ->  clean  ->  the same text with escapes: \\x1b, \\u202e

Escaped are: control characters but newline and tab (ESC, BEL, carriage return, backspace, NUL, and C1, of which U+009B
alone begins a sequence), overrides and isolates of direction, and characters that nobody sees where no script needs
them.  What scripts need stays: marks of direction, joiners behind a letter or emoji, one variation selector behind a
character, the tags of the flags of England, Scotland and Wales.
"""

from __future__ import annotations

import re
import unicodedata

CONTEXT = 8  # characters of what went before that a judgement may need: a flag and its tags
_SUSPECT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\udc80-\udc9f\U000e0000-\U000e0fff]"
)
_JOINERS = frozenset("\u034f\u200b\u200c\u200d")
_FLAG = re.compile("\U0001f3f4[\U000e0061-\U000e007a\U000e0030-\U000e0039]{0,5}\\Z")
_TAGS = re.compile("[\U000e0030-\U000e0039\U000e0061-\U000e007a\U000e007f]")
_SELECTORS = re.compile("[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def clean(text: str, before: str = "") -> str:
    """The text with an escape for each character that would act on a terminal; before: what was printed in front."""
    if _SUSPECT.search(text) is None:
        return text
    start = before[-CONTEXT:]
    whole = start + text
    pieces, done = [], len(start)
    for found in _SUSPECT.finditer(whole, done):
        at = found.start()
        pieces.append(whole[done:at])
        letter = whole[at]
        if letter == "\r" and whole.startswith("\r\n", at):
            pass  # the end of a line, as Windows writes it
        else:
            pieces.append(letter if _is_needed(letter, whole[max(0, at - CONTEXT) : at]) else escaped(letter))
        done = at + 1
    return "".join([*pieces, whole[done:]])


def one_line(text: str) -> str:
    """A name or label in one line: its line ends and tabs are escapes, too."""
    return clean(text).replace("\n", "\\n").replace("\t", "\\t")


def escaped(letter: str) -> str:
    """ESC -> "\\x1b"; a byte of a file's name that is no text -> "\\x9b"."""
    code = ord(letter)
    code -= 0xDC00 if 0xDC80 <= code <= 0xDCFF else 0  # Python's way to keep a byte
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def json_text(document: str) -> str:
    """A JSON document whose strings are the same, with JSON's escapes for what `clean` escapes."""
    return _SUSPECT.sub(_json_escape, document)


def _json_escape(found: re.Match[str]) -> str:
    letter, at = found[0], found.start()
    if _is_needed(letter, found.string[max(0, at - CONTEXT) : at]):
        return letter
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _is_needed(letter: str, before: str) -> bool:
    """Whether a character that is not seen belongs to what stands in front of it."""
    last = before[-1:]
    visible = bool(last) and _SUSPECT.match(last) is None and not last.isspace()
    if letter in _JOINERS:  # Persian, the scripts of India and of South East Asia, and emoji
        return (visible and not last.isascii() and not _is_latin(last)) or _SELECTORS.match(last) is not None
    if _SELECTORS.match(letter):
        return visible and (letter < "\U000e0100" or unicodedata.category(last) == "Lo")
    if _TAGS.match(letter):
        return _FLAG.search(before) is not None
    return letter == "\u00ad" and last.isalpha()


def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("LATIN")


def human_count(count: float) -> str:
    """134_515_008 -> "134.5M"."""
    for unit in ("", "k", "M", "B"):
        if abs(count) < 1000:
            return f"{count:.0f}" if unit == "" else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}T"
