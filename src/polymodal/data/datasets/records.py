"""One line, row or element of a data file -> a sample.

    {"messages": [{"role": "user", "content": ...}, ...], "images": ["a.jpg"]}             OpenAI, TRL, LLaMA-Factory
    {"conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, ...], "image": "a.jpg"}    LLaVA, ShareGPT
    {"image": "a.jpg", "question": "...", "answer": "..."}     {"image": "a.jpg", "caption": "..."}    {"text": "..."}

Media that a text marks (`<image>`, `<video>`, `<audio>`) stand where the marks are, those that no text marks in front
of the first question, as in LLaVA's files.  Line ends around a mark belong to the prompt's format and are dropped.
Traps: only data files are searched for marks, never what a user typed; a mark in an answer is a medium of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Audio, Image, Media, Text, Video
from polymodal.data.messages import Message, Part, conversation
from polymodal.errors import PolymodalError, PromptError

Open = Callable[[Any], Any]
"""What a record names -> what a media record reads: a path, or bytes."""

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
}
MEDIA: Mapping[str, tuple[type[Media], tuple[str, ...]]] = {
    "image": (Image, ("image", "images", "image_path", "img", "picture")),
    "video": (Video, ("video", "videos", "video_path")),
    "audio": (Audio, ("audio", "audios", "audio_path", "sound", "speech")),
}
TALKS = ("messages", "conversations", "conversation")
QUESTIONS = ("question", "instruction", "prompt", "query")
ANSWERS = ("answer", "caption", "output", "response", "transcript", "transcription", "sentence", "label")
MARK = re.compile(r"\s*<(image|video|audio)>\s*")


def sample_of(record: Any, name: str, open_media: Open, question: str = "") -> Sample:
    """The sample that a record stands for.

    open_media: finds what the record names (relative to its file, inside its archive).  question: what is asked of
    media that come with a caption alone.  Raises PromptError, naming the sample and the keys it has, for a record of
    no known form, unknown roles, and marks that are not as many as the media.
    """
    try:
        return _sample_of(record, name, open_media, question)
    except PolymodalError as problem:
        text = str(problem)
        raise type(problem)(text if text.startswith(name) else f"{name}: {text}") from problem


def _sample_of(record: Any, name: str, open_media: Open, question: str) -> Sample:
    if not isinstance(record, Mapping):
        raise PromptError(f"expected an object with keys, found {type(record).__name__}")
    media = {kind: list(_media(record, kind, open_media)) for kind in MEDIA}
    turns = next((record[key] for key in TALKS if isinstance(record.get(key), Sequence)), None)
    if turns is not None:
        return Sample(name=name, messages=_talk(turns, media, open_media))
    answer = _first(record, ANSWERS)
    text = record.get("text")
    if answer is None and isinstance(text, str) and not any(media.values()):
        return Sample(name=name, text=text)
    answer = text if answer is None else answer
    if not isinstance(answer, str):
        raise PromptError(
            f"has the keys {', '.join(map(str, list(record)[:8])) or 'of none'}; expected messages, conversations, or "
            f"a medium with {', '.join(ANSWERS[:3])} or text"
        )
    asked = _first(record, QUESTIONS) or question
    if isinstance(record.get("input"), str) and record["input"]:  # Alpaca: instruction, input, output
        asked = f"{asked}\n{record['input']}" if asked else record["input"]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return Sample(name=name, messages=_talk(messages, media, open_media))


def _talk(turns: Sequence[Any], media: dict[str, list[Media]], open_media: Open) -> tuple[Message, ...]:
    """The messages, with the media where their texts mark them."""
    read = [_turn(turn, number, open_media) for number, turn in enumerate(turns)]
    if not read:
        raise PromptError("has no turns")
    named = {kind: 0 for kind in MEDIA}
    for _, content in read:
        for mark in MARK.finditer(content) if isinstance(content, str) else ():
            named[mark[1]] += 1
    unmarked: list[Media] = []
    for kind, items in media.items():
        if named[kind] not in (0, len(items)) or (named[kind] and not items):
            raise PromptError(f"its texts mark {named[kind]} times <{kind}>, and it has {len(items)} {kind} items")
        if not named[kind]:
            unmarked += items
    waiting = {kind: iter(items) for kind, items in media.items()}
    messages = []
    for role, content in read:
        parts = tuple(_parts(content, waiting)) if isinstance(content, str) else content
        if role == "user" and unmarked:
            parts, unmarked = (*unmarked, *parts), []
        messages.append(Message(role=role, parts=parts))
    if unmarked:
        raise PromptError("has media, but nobody asks about them")
    if not any(message.role == "assistant" for message in messages):
        raise PromptError("has no answer to learn from")
    return tuple(messages)


def _turn(turn: Any, number: int, open_media: Open) -> tuple[str, str | tuple[Part, ...]]:
    """(role, its text, or its parts where they were written one by one)."""
    if not isinstance(turn, Mapping):
        raise PromptError(f"turn {number} is {type(turn).__name__}, expected an object with role and content")
    given = turn.get("role", turn.get("from"))
    role = ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise PromptError(f"turn {number} is of role {str(given)[:40]!r}; expected {', '.join(sorted(ROLES))}")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, str):
        return role, content
    parts = [_opened(part, open_media) for part in content] if isinstance(content, list) else content
    return role, conversation([{"role": role, "content": parts}])[0].parts


def _opened(part: Any, open_media: Open) -> Any:
    """A part whose media are opened as the record's are; {"url": "a.jpg"} of a data file names a file, too."""
    if not isinstance(part, Mapping):
        return part
    kind = str(part.get("type", "")).removesuffix("_url")
    value = part.get(str(part.get("type", "")))
    if kind not in MEDIA or value is None:
        return part
    url = value.get("url") if isinstance(value, Mapping) and "url" in value else value
    if isinstance(url, str) and url.startswith("data:"):
        return part
    return MEDIA[kind][0](open_media(url))  # type: ignore[call-arg]


def _parts(text: str, waiting: Mapping[str, Iterator[Media]]) -> Iterator[Part]:
    """The text with a medium at each mark."""
    start = 0
    for mark in MARK.finditer(text):
        if before := text[start : mark.start()]:
            yield Text(before)
        yield next(waiting[mark[1]])
        start = mark.end()
    if rest := text[start:]:
        yield Text(rest)


def _media(record: Mapping[str, Any], kind: str, open_media: Open) -> Iterator[Media]:
    """The media of a kind that a record names, in order."""
    record_type, keys = MEDIA[kind]
    for key in keys:
        value = record.get(key)
        if value is None or value == "":
            continue
        for each in value if isinstance(value, list) else [value]:
            yield record_type(open_media(each))  # type: ignore[call-arg]


def _first(record: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((record[key] for key in keys if isinstance(record.get(key), str)), None)
