"""One line, row or element of a data file -> a sample.

    {"messages": [{"role": "user", "content": ...}, ...], "images": ["a.jpg"]}             OpenAI, TRL, LLaMA-Factory
    {"conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, ...], "image": "a.jpg"}    LLaVA, ShareGPT
    {"image": "a.jpg", "question": "...", "answer": "..."}     {"image": "a.jpg", "caption": "..."}    {"text": "..."}
    {"image": "a.jpg", "text": "...", "target": "France", "label": "positive"}, a label of something in the text
    {"image": "a.jpg", "label": "cat"}      {"image": "a.jpg", "audio": "a.wav"}, media without a word
    {"regions": "a.npz", "caption": "..."}, a detector's regions; of a .tsv of many pictures those of `image_id`
    {"messages": [...], "chosen": "...", "rejected": "..."}, one answer better than another, as TRL has them
    {"features": {"text": "a.npy", "audio": [[0.1, ...], ...]}, "label": 0.4}
    {"modalities": {"rgb@224": {"image": "a.jpg"}, "tok_depth@224": {"array": "d.npy"}, "caption": "..."}}, of one thing
    {"map": "a.npy"}, classes [H, W] or numbers [C, H, W] of the places of a picture
    {"instruction": "lift it", "images": [...], "gripper_images": [...], "actions": "a.npy"}, a robot's way

Media that a text marks (`<image>`, `<video>`, `<audio>`) stand where the marks are, those that no text marks in front
of the first question, as in LLaVA's files.  Line ends around a mark belong to the prompt's format and are dropped.
Traps: only data files are searched for marks, never what a user typed; a mark in an answer is a medium of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Array, Audio, Image, Media, Text, Video
from polymodal.data.messages import Message, Part, conversation
from polymodal.data.region_features import Regions
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
MEDIA: Mapping[str, tuple[Callable[..., Media], tuple[str, ...]]] = {
    "image": (Image, ("image", "images", "image_path", "img", "picture")),
    "video": (Video, ("video", "videos", "video_path")),
    "audio": (Audio, ("audio", "audios", "audio_path", "sound", "speech")),
    "depth": (partial(Image, modality="depth"), ("depth",)),
    "thermal": (partial(Image, modality="thermal"), ("thermal",)),
    "imu": (partial(Array, modality="imu"), ("imu", "motion")),
    "regions": (Regions, ("regions",)),
}
TALKS = ("messages", "conversations", "conversation")
QUESTIONS = ("question", "instruction", "prompt", "query")
ANSWERS = ("answer", "caption", "output", "response", "transcript", "transcription", "sentence", "label")
LABELS = ("labels", "label", "answers")
ARRAYS = ("codes", "signal_targets", "empty_target", "latents", "teacher_features", "map")
"""Numbers that stand beside a sample: ids of a picture's patches, vectors that signals should become, latents of
pictures, what a teacher says of patches, what is known of each place."""
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
    beside: dict[str, Any] = {
        "labels": _told(next((record[key] for key in LABELS if record.get(key) is not None), None)),
        "arrays": {name: each for key in ARRAYS for name, each in _arrays(record.get(key), open_media, key)},
        "group": "" if record.get("image_id") is None else str(record["image_id"]),
    }
    if isinstance(record.get("features"), Mapping):
        return Sample(name=name, **beside, features=dict(_arrays(record["features"], open_media)))
    if isinstance(record.get("modalities"), Mapping):
        known = {str(each): _modality(given, open_media) for each, given in record["modalities"].items()}
        return Sample(name=name, **beside, modalities=known)
    if record.get("actions") is not None:
        return _demonstration(record, name, open_media)
    media = {kind: list(_media(record, kind, open_media)) for kind in MEDIA}
    turns = next((record[key] for key in TALKS if isinstance(record.get(key), Sequence)), None)
    if record.get("chosen") is not None and record.get("rejected") is not None:
        return _preference(record, turns, name, media, open_media)
    if turns is not None:
        return Sample(name=name, messages=_talk(turns, media, open_media), **beside)
    text = record.get("text")
    if isinstance(record.get("target"), str) and isinstance(text, str):
        told = Message(role="user", parts=(*(item for kind in media.values() for item in kind), Text(text)))
        return Sample(name=name, messages=(told,), target=record["target"], **beside)
    answer = _first(record, ANSWERS)
    if answer is None and isinstance(text, str) and not any(media.values()):
        return Sample(name=name, text=text, **beside)
    answer = text if answer is None else answer
    asked = _first(record, QUESTIONS) or question
    if isinstance(record.get("input"), str) and record["input"]:  # Alpaca: instruction, input, output
        asked = f"{asked}\n{record['input']}" if asked else record["input"]
    if answer is None and set(beside["arrays"]) == {"map"} and not any(media.values()):
        return Sample(name=name, **beside)
    items = tuple(item for kind in media.values() for item in kind)
    if answer is None and asked and beside["labels"] is not None:  # several answers, or a label
        parts: tuple[Part, ...] = (*items, Text(asked))
        return Sample(name=name, messages=(Message(role="user", parts=parts),), **beside)
    if answer is None and items:  # pictures alone, pairs of media, what has a label and no words
        return Sample(name=name, media=items, **beside)
    if not isinstance(answer, str):
        raise PromptError(
            f"has the keys {', '.join(map(str, list(record)[:8])) or 'of none'}; expected messages, conversations, or "
            f"a medium with {', '.join(ANSWERS[:3])} or text"
        )
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return Sample(name=name, messages=_talk(messages, media, open_media), **beside)


def _preference(
    record: Mapping[str, Any], turns: Any, name: str, media: dict[str, list[Media]], open_media: Open
) -> Sample:
    """A question with a better and a worse answer, each a text or turns; media marked in them are in that order."""
    asked = turns if turns is not None else record.get("prompt", _first(record, QUESTIONS))
    if isinstance(asked, str):
        asked = [{"role": "user", "content": asked}]
    if not isinstance(asked, Sequence) or not asked:
        raise PromptError("has chosen and rejected answers; expected messages or prompt that they answer")
    answers = [
        [{"role": "assistant", "content": each}] if isinstance(each, str) else each
        for each in (record["chosen"], record["rejected"])
    ]
    if not all(isinstance(each, Sequence) and each for each in answers):
        raise PromptError("chosen and rejected: expected a text or a list of messages each")
    better, worse = answers
    messages = _talk([*asked, *better, *worse], media, open_media)
    end = len(asked) + len(better)
    return Sample(name=name, messages=messages[:end], rejected=(*messages[: len(asked)], *messages[end:]))


def _demonstration(record: Mapping[str, Any], name: str, open_media: Open) -> Sample:
    """What a robot was told, what its cameras saw at each step, and what it did."""
    told = _first(record, QUESTIONS)
    if told is None:
        raise PromptError("has actions but no instruction")
    seen = list(_media(record, "image", open_media))
    held = record.get("gripper_images") or ()
    seen += [Image(open_media(each), modality="gripper") for each in held]
    arrays = dict(_arrays(record["actions"], open_media, "actions"))
    return Sample(name=name, text=told, media=tuple(seen), arrays=arrays)


def _arrays(given: Any, open_media: Open, key: str = "") -> Iterator[tuple[str, Array]]:
    """Numbers of a record by name: of a table of them "key.name"; each a .npy file or lists of numbers."""
    if isinstance(given, Mapping) and not isinstance(given.get("bytes"), bytes):
        for name, each in given.items():
            yield from _arrays(each, open_media, f"{key}.{name}" if key else str(name))
    elif given is not None:
        yield key, Array(given if isinstance(given, list) else open_media(given), modality=key)


def _told(given: Any) -> Any:
    """What stands beside a sample; of VQA's {"answer": "cat", "answer_confidence": ...} of each person the answer."""
    if isinstance(given, list) and given and all(isinstance(each, Mapping) and "answer" in each for each in given):
        return [each["answer"] for each in given]
    return given


def _modality(given: Any, open_media: Open) -> Any:
    """{"image": "a.jpg"} or {"array": "a.npy"} as a medium, anything else as it stands in the file."""
    if not isinstance(given, Mapping) or len(given) != 1:
        return given
    ((kind, value),) = given.items()
    if kind == "array":
        return Array(value if isinstance(value, list) else open_media(value))
    return MEDIA[kind][0](open_media(value)) if kind in MEDIA else given


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
    return MEDIA[kind][0](open_media(url))


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
    make, keys = MEDIA[kind]
    if kind == "regions" and record.get("image_id") is not None:  # a line of a .tsv of many pictures
        make = partial(Regions, image_id=str(record["image_id"]))
    for key in keys:
        value = record.get(key)
        if value is None or value == "":
            continue
        for each in value if isinstance(value, list) else [value]:
            yield make(open_media(each))


def _first(record: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((record[key] for key in keys if isinstance(record.get(key), str)), None)
