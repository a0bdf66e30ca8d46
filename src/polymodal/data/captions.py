"""Captions of the web as ALBEF and BLIP clean them before they train on them (arXiv 2107.07651, 2201.12086).

"A man's <person>-photo!!  (2/3)" -> "a mans person photo 2 3"
"""

import re

_GONE = re.compile(r"[,.'!?\"()*#:;~]")
_SPACES = re.compile(r"\s{2,}")


def clean_caption(text: str, words: int = 30) -> str:
    """Lower case, punctuation deleted, hyphens and slashes as spaces, at most `words` words."""
    plain = _GONE.sub("", text.lower()).replace("-", " ").replace("/", " ").replace("<person>", "person")
    plain = _SPACES.sub(" ", plain).rstrip("\n").strip(" ")
    return " ".join(plain.split(" ")[:words])
