"""Turn the titles and sentences of picture sets into short, true phrases, and find the noun in them.

Flow: raw text -> `clean_sentence` (written captions) or `clean_title` (file names, titles with names and numbers)
      -> a noun phrase without article -> `phrase` adds the article -> `split_nouns` gives exact and broader names.
Traps: a phrase whose head word is not in the dictionary is refused (None), never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from polymodal.data.corpora.lexicon import Lexicon
from polymodal.data.corpora.record import normalise

COLOURS = frozenset(
    "red orange yellow green blue purple pink brown black white grey gray golden gold silver violet cyan turquoise "
    "beige".split()
)
NUMBERS = {w: n for n, w in enumerate("zero one two three four five six seven eight nine ten".split())}
STOP = frozenset(
    "a an the of with on in and or at by for from to its it is are his her their this that some two three pair "
    "bunch piece set one as into near over under".split()
)
_CUT = frozenset(
    "with of on in at by for from to and or inside over under near made covered wearing holding playing making "
    "doing riding eating showing behind without about carrying pointing saying".split()
)
_GROUPS = frozenset("pair bunch cluster head piece slice couple bowl box tube cob pile stack group row loaf bundle".split())
_SIZES = frozenset(
    "big small large little tiny huge old new young happy sad very great long short tall cute modern simple nice "
    "beautiful ripe sweet fresh female male baby traditional typical fat thin round open closed lit folded".split()
)
# Words that tell how a picture was made or filed, not what it shows.
FILING = frozenset(
    "icon icons clipart clip art remix svg png vector illustration illustrated drawing drawn image picture pic photo "
    "graphic graphics theme themes etiquette lemon outline outlined contour silhouette silhouet silouette bw bwh "
    "colour color coloured colored version ver copy example sample unsorted various collection example misc "
    "untitled test new final edited fixed sketch cartoon stylized stylised abstract simple hotel aiga package symbol "
    "symbols architetto hash alternative alt variant logo".split()
)
_MASS = frozenset(
    "milk water juice coffee tea wine beer bread rice cheese butter honey sugar salt pepper flour corn meat beef pork "
    "bacon chocolate cake-mix ice snow rain lightning fire smoke fog mist sand grass hay wood paper glass-ware gold "
    "silver money hair music clothing furniture food fruit-salad garlic ginger lettuce spinach broccoli asparagus "
    "cabbage celery parsley thyme basil mint toast pasta spaghetti sushi soup ketchup mustard popcorn tofu poultry "
    "seafood wheat barley cotton silk jewellery jewelry confetti equipment luggage mail air oil blood dirt mud soil "
    "soap shampoo toothpaste electricity traffic weather sunshine cream sewing knitting yarn thread camouflage "
    "tape ham sake champagne stormwater".split()
)
_UNIQUE = frozenset("sun moon earth sky sea ocean equator".split())
_NAMES = frozenset("mercury venus mars jupiter saturn uranus neptune pluto".split())
_PLACES = re.compile(r"(Islands|States|Republic|Kingdom|Emirates|Nations|Philippines|Netherlands|Bahamas|Maldives|Union|Comoros)$")
_DIRECTIONS = frozenset("up down left right top bottom open close".split())
_ALONE = frozenset("symbol sign button picture face mark".split())  # heads that say nothing without what is before them
_AN = re.compile(r"^([aeiou]|hour|honest|heir|herb\b|x-?ray|mp3|sos|sd |f-|lcd|led\b|rss|h\b)", re.IGNORECASE)
_NOT_AN = re.compile(r"^(uni(?!mp|nf|nt)|use|usb|uk|us |u-|ukulele|euro|ewe|one\b|once|ufo|utensil|ute)", re.IGNORECASE)
_PEOPLE = frozenset("man woman person boy girl child baby men women people kiss couple family mage merman".split())


def article(text: str) -> str:
    """"a" or "an", by sound, for the text that follows."""
    return "an" if _AN.match(text) and not _NOT_AN.match(text) else "a"


def head_of(phrase: str) -> str:
    """The part before the first preposition or participle: "bowl of soup" -> "bowl" ; groups are looked through."""
    words = phrase.split()
    if len(words) > 2 and words[1] == "of" and words[0].lower() in _GROUPS:
        words = words[2:]
    for place, word in enumerate(words):
        if place and word.lower() in _CUT:
            return " ".join(words[:place])
    if len(words) > 1 and words[0].lower() in _PEOPLE and words[1].endswith("ing"):
        return words[0]
    return " ".join(words)


def phrase(text: str, lexicon: Lexicon) -> str:
    """A noun phrase with the article it needs: "red apple" -> "a red apple", "grapes" -> "grapes"."""
    first, *rest = text.split()
    if first.lower() in ("a", "an", "the", "some", "two", "three", "four", "five", "my", "our", "no"):
        return " ".join([first.lower() if first.lower() != "an" else "an", *rest])
    words = text.lower().split()
    if len(words) > 2 and words[1] == "of" and words[0] in _GROUPS:
        return f"{article(text)} {text}"
    last = head_of(text).split()[-1].lower()
    if len(words) == 1 and last in _UNIQUE:
        return f"the {text.lower()}"
    if len(words) == 1 and last in _NAMES:
        return text.capitalize()
    if last in _MASS or lexicon.plural(last) or last in NUMBERS:
        return text
    if lexicon.base(last) is None and "-" not in last:
        return text if lexicon.is_word(last) else f"{article(text)} {text}"
    if (len(words) == 1 and lexicon.proper(text)) or (last.endswith("ing") and not lexicon.concrete(last, 1)):
        return text
    return f"{article(text)} {text}"


def flag_of(place: str) -> str:
    """"the flag of ..." with the article that some countries' names take."""
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
    if head.split()[-1].lower() in _ALONE and " " in head:
        return (text,), ()
    words = head.split()
    known: list[str] = []
    for start in range(len(words)):
        part = " ".join(words[start:])
        plain = words[start].lower() in COLOURS or words[start].lower() in _SIZES
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
    text = text.strip().translate(str.maketrans({"“": "", "”": "", "’": "'", "‘": "'", '"': None}))
    text = re.split(r"[!?;:(–—]|\.(?=\s|$)|,? (?:that|which|who|called|also|used|it's|named|stands|lets|means|ahead|has|can)\b", text)[0]
    text = re.split(r" for \w+ing\b| to \w+ ", text)[0].strip(" ,.-")
    text = re.sub(r"^An (?=h)", "A ", text)
    if not text:
        return None
    words = text.split()
    started = words[0].lower() in ("a", "an", "the", "some", "two", "three", "our")
    if len(words) > (8 if started else 4):
        return None
    keep_case = words[0].isupper() and len(words[0]) > 1
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
    words = [w for w in words if len(w) > 1 or w == "a"]
    while words and words[0] in STOP:
        words.pop(0)
    while words and words[-1] in STOP | _CUT:
        words.pop()
    if not words or len(words) > 6 or any(w not in STOP and not lexicon.is_word(w) for w in words):
        return None
    while len(words) > 1 and words[-1] in _DIRECTIONS | COLOURS:
        last = words.pop()
        words = [last, *words] if last in COLOURS else words
    found = " ".join(words)
    head = head_of(found).split()
    if not head or not any(lexicon.concrete(" ".join(head[i:])) for i in range(len(head))):
        return None
    return found if lexicon.concrete(head[-1]) or lexicon.concrete(" ".join(head[-2:])) else None


def content_words(texts: Sequence[str], lexicon: Lexicon) -> list[str]:
    """Words that carry meaning, once each, in order: no stop words, no filing words, English only."""
    found: dict[str, None] = {}
    for text in texts:
        for word in normalise(text).split():
            if len(word) > 1 and word not in STOP and word not in FILING and lexicon.is_word(word):
                found[word] = None
    return list(found)
