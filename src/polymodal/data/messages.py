"""Conversations as people write them (OpenAI-style) -> typed records.

Flow: str | media | list of parts | list of {"role", "content"} -> Message(role, parts) with parts Text and Media
(Image, Audio, Video, Array, a system's own), in the order they were written.
Traps: base64 pasted as a text part stays text.  Nothing is downloaded: a picture is bytes, a `data:` URL or, for
callers who trust the sender (`files=True`), a path.  A server passes `files=False`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polymodal.data.limits import DEFAULT_LIMITS, Limits
from polymodal.data.media import Array, Audio, Image, Media, Text
from polymodal.data.modalities import MODALITIES
from polymodal.data.source import decode_base64
from polymodal.errors import PromptError

ROLES = ("system", "user", "assistant", "tool")
Part = Text | Media
_MEDIA: dict[str, Any] = {each.name: each.media for each in MODALITIES.values() if each.media is not None}
_DATA_URL = re.compile(r"data:(?P<kind>[a-z]+)/[\w.+-]+(?:;[\w=.+-]+)*;base64,(?P<data>.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn: who speaks, and what in order."""

    role: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def media(self) -> tuple[Media, ...]:
        """The other parts, in order."""
        return tuple(part for part in self.parts if not isinstance(part, Text))


def user(*content: Any, files: bool = True, limits: Limits = DEFAULT_LIMITS) -> Message:
    """One user message from texts and media in order, as in `user("What is this?", image)`."""
    reader = _Reader(files, limits)
    return Message(role="user", parts=tuple(reader.part(part, "message") for part in content))


def conversation(messages: Any, *, files: bool = True, limits: Limits = DEFAULT_LIMITS) -> tuple[Message, ...]:
    """Typed messages from a string, one media record, or a list of messages.

    A message is a Message or a mapping with `role` and `content`; content is a string, None (empty), one
    media record or a list of parts.  A part is a str, a media record, or a mapping: `text`; a modality (`image`,
    `audio`, `video`, `depth`, ...) with bytes, a decoded object or (files=True) a path under the same key, or an array
    under the name of any other one; `image_url`, `video_url` with {"url": "data:..."}; `input_audio` with base64
    {"data", "format"}.  limits: bounds of the media made here.
    Raises: PromptError naming the message, the part and what was expected.
    """
    if isinstance(messages, str | Text | Media):
        return (user(messages),)
    if isinstance(messages, Message | Mapping):
        messages = [messages]
    if not isinstance(messages, Sequence) or isinstance(messages, bytes | bytearray):
        raise PromptError(f"messages: expected a string or a list of messages, found {_kind(messages)}")
    if not messages:
        raise PromptError("messages: expected at least one message, found none")
    reader = _Reader(files, limits)
    return tuple(reader.message(message, f"messages[{i}]") for i, message in enumerate(messages))


def are_several(messages: Any) -> bool:
    """Whether these are conversations, a list of lists of messages, and not one."""
    return isinstance(messages, list | tuple) and bool(messages) and isinstance(messages[0], list | tuple)


def interleave(text: str, media: Sequence[Media], marker: str = "<image>") -> tuple[Part, ...]:
    """Parts of a data-set line that marks in its text where its media go ("<image>\\nWhat is this?").

    For data files only: text from a user is never searched for markers.
    Raises: PromptError naming both counts when markers and media differ in number.
    """
    pieces = text.split(marker)
    if len(pieces) - 1 != len(media):
        raise PromptError(f"text: {len(pieces) - 1} markers {marker!r} for {len(media)} media; they must agree")
    parts: list[Part] = [Text(pieces[0])] if pieces[0] else []
    for item, piece in zip(media, pieces[1:], strict=True):
        parts += [item, Text(piece)] if piece else [item]
    return tuple(parts)


def words_first(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation with the media of every message behind its words, for formats that know no other order."""
    return tuple(
        replace(message, parts=(*(part for part in message.parts if isinstance(part, Text)), *message.media))
        for message in messages
    )


def pictures_first(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation with the pictures of every message in front of the rest, for models that learned no other order.

    A question in front of its picture is as usual as one behind it, in OpenAI's messages above all.
    """
    return tuple(
        replace(message, parts=tuple(sorted(message.parts, key=lambda part: not isinstance(part, Image))))
        for message in messages
    )


@dataclass(frozen=True)
class _Reader:
    """What the sender of messages may do, and how large media may be."""

    files: bool
    limits: Limits

    def message(self, message: Any, where: str) -> Message:
        role: Any
        content: Any
        if isinstance(message, Message):
            role, content = message.role, message.parts
        elif isinstance(message, Mapping):
            if missing := [key for key in ("role", "content") if key not in message]:
                raise PromptError(f"{where}: lacks {' and '.join(map(repr, missing))}")
            role, content = message["role"], message["content"]
        else:
            raise PromptError(f"{where}: expected a mapping with role and content, found {_kind(message)}")
        if role not in ROLES:
            raise PromptError(f"{where}: role {role!r} is not known; expected {', '.join(ROLES)}")
        if content is None:
            content = ()
        if isinstance(content, str | bytes | Mapping) or not isinstance(content, Iterable):
            content = (content,)
        return Message(
            role=role, parts=tuple(self.part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
        )

    def part(self, part: Any, where: str) -> Part:
        if isinstance(part, Text | Media):
            return part
        if isinstance(part, str):
            return Text(part)
        if not isinstance(part, Mapping):
            raise PromptError(f"{where}: expected text, media or a mapping with a type, found {_kind(part)}")
        kind = part.get("type")
        if kind == "text":
            return Text(_field(part, "text", str, where))
        if kind in _MEDIA:
            if kind not in part:
                raise PromptError(f"{where}: a part of type {kind!r} needs the key {kind!r}")
            return self._media(kind, part[kind], f"{where}.{kind}")
        if kind in ("image_url", "video_url"):
            holder = part.get(kind)
            url = holder.get("url") if isinstance(holder, Mapping) else holder
            return self._from_url(kind.removesuffix("_url"), url, f"{where}.{kind}")
        if kind == "input_audio":
            sound = _field(part, "input_audio", Mapping, where)
            where = f"{where}.input_audio"
            return Audio(_decoded(_field(sound, "data", str, where), f"{where}.data"), self.limits)
        if isinstance(kind, str) and _holds_numbers(part.get(kind)):
            return Array(part[kind], self.limits, modality=kind)
        expected = ", ".join(["text", *_MEDIA, "image_url", "video_url", "input_audio"])
        raise PromptError(
            f"{where}: part type {kind!r} is not known; expected {expected}, or numbers under a modality's name"
        )

    def _media(self, kind: str, value: Any, where: str) -> Media:
        if isinstance(value, Media):
            if isinstance(value, _MEDIA[kind]):
                item: Any = value
                return item if item.modality == kind else replace(item, modality=kind)
            raise PromptError(f"{where}: expected {kind}, found {_kind(value).lower()}")
        if isinstance(value, str) and value.startswith("data:"):
            return self._from_url(kind, value, where)
        own = isinstance(value, bytes) or (_MEDIA[kind] is Array and _holds_numbers(value))
        if not self.files and not own:
            raise PromptError(f"{where}: files of this machine are not open to messages; send the data itself")
        return _MEDIA[kind](value, self.limits, modality=kind)

    def _from_url(self, kind: str, url: Any, where: str) -> Media:
        match = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
        if match is None:
            shown = repr(url[:40]) if isinstance(url, str) else _kind(url)
            raise PromptError(f"{where}: expected a URL of the form data:{kind}/...;base64,... , found {shown}")
        if match["kind"] != _MEDIA[kind].mime:
            raise PromptError(f"{where}: expected {_MEDIA[kind].mime or 'no'} data, found {match['kind']} data")
        return _MEDIA[kind](_decoded(match["data"], where), self.limits, modality=kind)


def _holds_numbers(value: Any) -> bool:
    """Whether a value can be an array: an array or tensor, or a list that begins with a number or with such a list."""
    if isinstance(value, list | tuple):
        return bool(value) and (isinstance(value[0], int | float) or _holds_numbers(value[0]))
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _decoded(data: str, where: str) -> bytes:
    try:
        return decode_base64(data)
    except ValueError:
        raise PromptError(f"{where}: is not valid base64") from None


def _field(part: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = part.get(key)
    if not isinstance(value, kind):
        raise PromptError(f"{where}: {key!r} should be a {kind.__name__.lower()}, found {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return type(value).__name__
