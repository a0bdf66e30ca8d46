"""How MM-REACT's planner asks: "Assistant, ..." and the words behind it choose an expert.

    "1. There is an image in the input\\nAssistant, what objects do you see in this image? /image/a.png"
        -> ("Image Understanding", "/image/a.png")
    "To summerize, a cat." -> ("<|im_end|>", the whole text)

As microsoft/MM-REACT at b8f29af reads outputs (MIT, langchain/agents/assistant/base.py, langchain/utils.py). Traps: the
last watchword is read first; a picture before other words of the request is cut off what the keywords are looked up in;
an address ends at the LAST file ending on its line; the official code may walk for ever over several files in one
request, here it goes on behind each.
"""

from __future__ import annotations

import re

FINISH, WATCHWORD = "<|im_end|>", "Assistant,"
POLITE = ("thank you for letting me", "is there anything else ", "or is there something else ")
FILES = (
    re.compile(r"https?://.+\.(?:jpg|jpeg|png|bmp|pdf)", re.IGNORECASE),
    re.compile(r"https?://\S+", re.IGNORECASE),
    re.compile(r"/[\w/-]+\.(?:jpg|jpeg|png|bmp|pdf)", re.IGNORECASE),
)
OCR, OBJECTS, SEARCH = "OCR Understanding", "Image Understanding", "Bing Search"
EDIT, RECEIPT, INVOICE = "Photo Editing", "Receipt Understanding", "Invoice Understanding"
CARD, LAYOUT, FACES = "Business Card Understanding", "Layout Understanding", "Celebrity Understanding"
Request = tuple[str | None, str]


def cleaned(text: str) -> str:
    """An output without markup, empty lines and phrases of politeness."""
    text = text.replace("<|im_end|>\n", "\n").replace("<|im_end|>", "").replace("<|im_sep|>AI\n", "")
    kept = []
    for line in text.split("\n"):
        places = [place for phrase in POLITE if (place := line.lower().find(phrase)) >= 0]
        line = line[: _first(line)] if places else line
        if line:
            kept.append(line)
    return "\n".join(kept)


def _first(line: str) -> int:
    """Where the first phrase of the list that is there begins."""
    return next(place for phrase in POLITE if (place := line.lower().find(phrase)) >= 0)


def find_file(text: str) -> tuple[int, int, str]:
    """(start, end, name) of the first address or path of a file, (-1, -1, "") for none."""
    for index, pattern in enumerate(FILES):
        if found := pattern.search(text):
            name = found[0]
            if index == 1 and name.endswith((".", "?", '"')):
                name = name[:-1]
            return found.start(), found.end(), name
    return -1, -1, ""


def requests_of(output: str) -> list[Request] | None:
    """What the last watchword asks for: (expert or None, its input) for each file; None without a watchword."""
    start = output.rfind(WATCHWORD)
    if start < 0:
        return None
    request = output[start + len(WATCHWORD) :].strip()
    if "photo edit" in output or "image edit" in output:
        return [(EDIT, request)]
    files, place = [], 0
    begin, end, name = find_file(request)
    words = request[:begin].strip().lower() if begin >= 0 else ""
    while begin >= 0:
        files.append(name)
        place += end
        begin, end, name = find_file(request[place:])
    expert = expert_of(words)
    if not files:
        return [_without_file(expert, request, words)]
    return [(_for_file(expert, words, each.lower()), each) for each in files]


def expert_of(words: str) -> str | None:
    """The expert that keywords name."""
    if "invoice" in words:
        return INVOICE
    if "receipt" in words:
        return RECEIPT
    if "business card" in words:
        return CARD
    if "ocr" in words:
        return LAYOUT if "table" in words else OCR
    if "celebrit" in words or "facial rec" in words or " faces " in words:
        return FACES
    if any(each in words for each in ("landmark", "brand", "bing search")):
        return SEARCH
    return OBJECTS if "objects" in words else None


def _without_file(expert: str | None, request: str, words: str) -> Request:
    if expert is None and (request.endswith("?") or words.startswith("search ")):
        expert = SEARCH
    if expert != SEARCH:
        return expert, ""
    for phrase in ("bing search for", "bing search", "search for", "search"):
        if (place := request.lower().find(phrase)) >= 0:
            return expert, request[place + len(phrase) :].strip()
    return expert, request


def _for_file(expert: str | None, words: str, name: str) -> str | None:
    """The expert for one file, of which the name may say more than the words."""
    if (expert is None and (" is written" in words or " text" in words or words.endswith(" say?"))) or (
        expert is None and words.startswith(("parse ", "analyze "))
    ):
        expert = OCR
    if expert == OBJECTS and name.endswith(".pdf"):
        expert = OCR
    if expert == RECEIPT and "invoice" in name:
        expert = INVOICE
    if expert == OCR:
        expert = next(
            (each for word, each in (("invoice", INVOICE), ("receipt", RECEIPT), ("table", LAYOUT)) if word in name),
            OCR,
        )
    if expert is None and (words.startswith("search ") or " the name of " in words):
        expert = SEARCH
    return expert


def read(output: str, tries: int = 0) -> list[tuple[str, str]] | None:
    """What an output asks for, the last request first: (expert, input), or (FINISH, the text) for an answer.

    None: requests that no expert could be chosen for, and the planner may write on; after four tries they are an
    answer.
    """
    output = cleaned(output)
    found: list[tuple[str, str]] = []
    unclear = False
    while (requests := requests_of(output)) is not None:
        unclear |= any(not (expert and given) for expert, given in requests)
        found += [(expert, given) for expert, given in requests if expert and given]
        output = output[: output.rfind(WATCHWORD)].strip()
    if found:
        return found
    return None if unclear and tries < 4 else [(FINISH, output.strip())]


def written_on(text: str) -> str:
    """An unclear output, to be written on."""
    text = cleaned(text)
    return text if "Assistant, " in text else f"{text}\n<|im_sep|>AI\n"
