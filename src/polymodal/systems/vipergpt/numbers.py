"""Numbers in words and in texts, as ViperGPT reads them: `word_to_num` of the package word2number 1.1,
`coerce_to_numeric`.

Traps, kept as they are: "25to26" gives 2526; "one million two thousand" gives 1,003,002; of a range the first number
counts; "one hundred twenty three thousand" takes at most four words for each part.
"""

from __future__ import annotations

import re

SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
WORDS = {word: number for number, word in enumerate(SMALL)} | {word: 10 * n for n, word in enumerate(TENS, 2)}
WORDS |= {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
LARGE = ("billion", "million", "thousand")


def word_to_num(text: str) -> int | float:
    """ "two hundred and five" -> 205; words that are no numbers do not count.  Raises ValueError without any."""
    text = text.replace("-", " ").lower()
    if text.isdigit():
        return int(text)
    words = [word for word in text.strip().split() if word in WORDS or word == "point"]
    if not words:
        raise ValueError(f"no number in {text[:80]!r}")
    if any(words.count(word) > 1 for word in (*LARGE, "point")):
        raise ValueError(f"a word of numbers twice in {text[:80]!r}")
    cut = words.index("point") if "point" in words else len(words)
    whole, decimals = words[:cut], words[cut + 1 :]
    order = [whole.index(word) for word in LARGE if word in whole]
    if order != sorted(order):
        raise ValueError(f"the words of {text[:80]!r} are in no order of numbers")
    return _whole(whole) + _decimals(decimals)


def _whole(words: list[str]) -> int:
    if len(words) == 1:
        return WORDS[words[0]]
    total, begin = 0, 0
    for large in LARGE:
        if large in words:
            end = words.index(large)
            total += _part(words[begin:end]) * WORDS[large]
            begin = end + 1
    # Behind the smallest of the large words that is not the last word; a last "thousand" counts there once more.
    ends = [words.index(large) + 1 for large in reversed(LARGE) if large in words]
    rest = next((end for end in ends if end < len(words)), len(words) if ends else 0)
    return total + (_part(words[rest:]) if rest < len(words) else 0)


def _part(words: list[str]) -> int:
    """Up to four words, below a thousand.  Raises IndexError for none, as the package does."""
    numbers = [WORDS[word] for word in words]
    if len(numbers) == 4:
        return numbers[0] * numbers[1] + numbers[2] + numbers[3]
    if len(numbers) == 3:
        return numbers[0] * numbers[1] + numbers[2]
    if len(numbers) == 2:
        return numbers[0] * numbers[1] if 100 in numbers else numbers[0] + numbers[1]
    return numbers[0]


def _decimals(words: list[str]) -> float | int:
    if not words or any(word not in SMALL[:10] for word in words):
        return 0
    return float("0." + "".join(str(WORDS[word]) for word in words))


def coerce_to_numeric(text: str) -> int | float | str:
    """The number in a text: in words, else its digits; of "10-15" the first.  A text without any stays as it is."""
    try:
        return word_to_num(text)
    except ValueError:
        pass
    kept = re.sub(r"[^0-9.\-]", "", text)
    if kept.startswith("-"):
        kept = "&" + kept[1:]
    if "-" in kept:
        return coerce_to_numeric(kept.split("-")[0].replace("&", "-"))
    kept = kept.replace("&", "-")
    try:
        return float(kept) if "." in kept else int(kept)
    except ValueError:
        return text
