"""Turn the titles and sentences of picture sets into short, true phrases, and find the noun in them.

Flow: raw text -> `clean_sentence` (written captions) or `clean_title` (file names, titles with names and numbers)
      -> a noun phrase without article -> `phrase` adds the article -> `split_nouns` gives exact and broader names.
Traps: a phrase whose head word is not in the dictionary is refused (None), never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from corpora.lexicon import Lexicon
from corpora.wordlists import (
    ALONE,
    COLOURS,
    CUT,
    DIRECTIONS,
    EMPTY,
    FILING,
    GROUPS,
    MASS,
    NAMES,
    NUMBERS,
    PEOPLE,
    SAME,
    SIZES,
    STOP,
    UNFIT,
    UNIQUE,
)
from polymodal.data.sets.split import normalise

_PLACES = re.compile(
    r"(Islands|States|Republic|Kingdom|Emirates|Nations|Philippines|Netherlands|Bahamas|Maldives|Union|Comoros)$"
)
_CLAUSE = (
    "that|which|who|called|also|used|it's|named|stands|lets|means|ahead|has|is|are|carry|carries|resembles|made|worn"
    "|eaten|can only|can be|can move"
)
_AN = re.compile(r"^([aeiou]|hour|honest|heir|herb\b|x-?ray|mp3|sos|sd |f-|lcd|led\b|rss|h\b)", re.IGNORECASE)
_NOT_AN = re.compile(r"^(uni(?!mp|nf|nt)|use|usb|uk|us |u-|ukulele|euro|ewe|one\b|once|ufo|utensil|ute)", re.IGNORECASE)


def article(text: str) -> str:
    """ "a" or "an", by sound, for the text that follows."""
    return "an" if _AN.match(text) and not _NOT_AN.match(text) else "a"


def head_of(phrase: str) -> str:
    """The part before the first preposition or participle: "bowl of soup" -> "bowl" ; groups are looked through."""
    words = phrase.split()
    if len(words) > 2 and words[1] == "of" and words[0].lower() in GROUPS:
        words = words[2:]
    for place, word in enumerate(words):
        paired = word in ("and", "or") and words[place - 1].lower() in COLOURS  # "blue and yellow flag"
        if place and word.lower() in CUT and not paired:
            return " ".join(words[:place])
    if len(words) > 1 and words[0].lower() in PEOPLE and words[1].endswith("ing"):
        return words[0]
    return " ".join(words)


def phrase(text: str, lexicon: Lexicon) -> str:
    """A noun phrase with the article it needs: "red apple" -> "a red apple", "grapes" -> "grapes"."""
    first, *rest = text.split()
    if first.lower() in ("a", "an", "the", "some", "two", "three", "four", "five", "my", "our", "no"):
        return " ".join([first.lower(), *rest])
    words = text.lower().split()
    if len(words) > 2 and words[1] == "of" and words[0] in GROUPS:
        return f"{article(text)} {text}"
    head = head_of(text).split()
    last = next((word.lower() for word in reversed(head) if lexicon.base(word)), head[-1].lower())
    if lexicon.proper(text) and text != text.lower():
        return text
    if len(words) == 1 and last in UNIQUE:
        return f"the {text.lower()}"
    if len(words) == 1 and last in NAMES:
        return text.capitalize()
    if last in MASS or lexicon.plural(last) or last in NUMBERS:
        return text
    if lexicon.base(last) is None and "-" not in last:
        return text if lexicon.is_word(last) else f"{article(text)} {text}"
    if last.endswith("ing") and not lexicon.concrete(last, 1) and len(head) == 1:
        return text
    return f"{article(text)} {text}"


def inner_articles(text: str, lexicon: Lexicon) -> str:
    """Put the articles that terse names leave out: "woman with veil" -> "woman with a veil"."""
    match = re.search(r" (with|in|wearing|feeding|holding|getting|riding) (?!a |an |the )(.+)$", text)
    return f"{text[: match.start(2)]}{phrase(match.group(2), lexicon)}" if match else text


def flag_of(place: str) -> str:
    """ "the flag of ..." with the article that some countries' names take."""
    place = re.sub(r" ?\(.*?\)", "", place).replace("&", "and").strip()
    return f"the flag of {'the ' if _PLACES.search(place) else ''}{place}"


def strip_article(text: str) -> str:
    """The phrase without its leading article or number word."""
    return re.sub(r"^(a|an|the|some|one|two|three|four|five) ", "", text, flags=re.IGNORECASE)


def split_nouns(text: str, lexicon: Lexicon) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(exact, broader) names in a noun phrase without article.

    "red sports car" -> (("sports car", "red sports car", "sport car"), ("car",)).  The main name is the longest
    ending of the head that the dictionary knows and that does not start with a colour or size.
    """
    head = re.sub(r"^(very )", "", head_of(text))
    if head.split()[-1].lower() in ALONE and " " in head:
        return (text,), (head.split()[-1].lower(),)
    words = head.split()
    known: list[str] = []
    for start in range(len(words)):
        part = " ".join(words[start:])
        plain = words[start].lower() in COLOURS or words[start].lower() in SIZES
        if (base := lexicon.base(part)) and not (plain and len(words) - start > 1 and not _fixed(part, lexicon)):
            known.append(part if lexicon.plural(words[-1]) or part != part.lower() else base)
    if not known:
        return (text,), ()
    main = known[0]
    synonyms = lexicon.synonyms(main)[:3] if not lexicon.proper(main) else ()
    exact = dict.fromkeys([main, head, text, *synonyms])
    broader = [other for other in known[1:] if lexicon.is_a(main, other)]
    return tuple(exact), tuple(dict.fromkeys(broader))


def _fixed(part: str, lexicon: Lexicon) -> bool:
    """Is colour + noun a name of its own ("red fox", "black widow") rather than a description?"""
    base = lexicon.base(part)
    return base is not None and lexicon.kind(part) in ("animal", "plant", "food", "person")


def clean_sentence(text: str) -> str | None:
    """The first noun phrase of a written caption, article kept, or None when it does not start with one."""
    text = re.sub('[“”"]', "", re.sub("[’‘]", "'", text)).strip()
    text = re.split(rf"[!?;:(–—]|\.(?=\s|$)|, from|,? (?:{_CLAUSE})\b", text)[0]
    text = re.split(r" for (?!the letter|the number)| to \w+ ", text)[0].strip(" ,.-")
    text = re.sub(r"^An (?=h)", "A ", text)
    if not text:
        return None
    words = text.split()
    started = words[0].lower() in ("a", "an", "the", "some", "two", "three", "our")
    if len(words) > (8 if started else 4):
        return None
    name = len(words) > 1 and words[1][:1].isupper() and not started
    keep_case = name or (words[0].isupper() and len(words[0]) > 1)
    return text if keep_case else text[0].lower() + text[1:]


def tokens(text: str) -> list[str]:
    """Lower-case words of a file name or title: camelCase, underscores, digits and punctuation are separators."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    text = re.sub(r"\([^)]*\)", " ", text)
    return [word for word in re.split(r"[^A-Za-zÀ-ÿ'-]+|(?<=\s)-|-(?=\s)|[_-]", text.lower()) if word.strip("'")]


def clean_title(text: str, lexicon: Lexicon, drop: Iterable[str] = ()) -> str | None:
    """A dictionary noun phrase out of a title or file name, or None.

    drop: words of the author's name.  Every word that stays must be English; the head must be a drawable noun.
    """
    gone = {part for word in drop for part in (word.lower(),) if part}
    words = [w for w in tokens(text) if w not in FILING and not any(g.startswith(w) and len(w) > 1 for g in gone)]
    words = [SAME.get(w, w) for w in words if len(w) > 1 or w == "a"]
    if UNFIT & set(words):
        return None
    while words and words[0] in STOP:
        words.pop(0)
    while words and words[-1] in STOP | CUT:
        words.pop()
    if not words or len(words) > 6 or any(w not in STOP and not lexicon.is_word(w) for w in words):
        return None
    while len(words) > 1 and words[-1] in DIRECTIONS | COLOURS:
        last = words.pop()
        words = [last, *words] if last in COLOURS else words
    found = " ".join(words)
    head = head_of(found).split()
    drawable = any(lexicon.concrete(" ".join(head[start:])) for start in range(len(head))[-2:])
    empty = not head or head[-1] in COLOURS | SIZES | DIRECTIONS | EMPTY
    return found if drawable and not empty else None


def content_words(texts: Sequence[str], lexicon: Lexicon) -> list[str]:
    """Words that carry meaning, once each, in order: no stop words, no filing words, English only."""
    found: dict[str, None] = {}
    for text in texts:
        for word in normalise(text).split():
            if len(word) > 1 and word not in STOP and word not in FILING and lexicon.is_word(word):
                found[word] = None
    return list(found)
