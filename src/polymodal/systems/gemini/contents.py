"""The JSON of Gemini's published interface, generateContent, as messages, and back.

    {"systemInstruction": {"parts": [...]}, "contents": [{"role": "user" | "model" | "function", "parts": [part, ...]}]}
    part: {"text"} | {"inlineData": {"mimeType", "data"}} | {"functionCall": {"name", "args"}}
          | {"functionResponse": {"name", "response"}} | {"fileData"}, which is refused: nothing is fetched

Parts and the roles user and model are those of the public reference of `Content`; the role function, of its first
version, and snake_case, which is read too, are recalled.
Traps: no role is a user's; the type of inline data is written by what its bytes are; how a model itself is shown calls
was not published: they stand in its prompt as their JSON.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polymodal.data.limits import DEFAULT_LIMITS, Limits
from polymodal.data.media import Audio, Image, Media, Text, Video
from polymodal.data.messages import Message
from polymodal.data.source import IMAGE_FORMATS, decode_base64, sniff
from polymodal.errors import PromptError

ROLES = {"user": "user", "model": "assistant", "function": "tool"}
KINDS: dict[str, type[Image] | type[Audio] | type[Video]] = {"image": Image, "audio": Audio, "video": Video}
CALLS = {"functionCall": "args", "functionResponse": "response"}
FORMATS = {"matroska": "x-matroska", "mpegts": "mp2t", "aiff": "aiff", "avi": "x-msvideo"}
SPELLED = {"inline_data": "inlineData", "file_data": "fileData", "function_call": "functionCall",
           "function_response": "functionResponse", "mime_type": "mimeType",
           "system_instruction": "systemInstruction"}  # fmt: skip


@dataclass(frozen=True)
class Call(Text):
    """A functionCall or a functionResponse; its text is its JSON."""

    @property
    def part(self) -> dict[str, Any]:
        """The part of the interface."""
        found: dict[str, Any] = json.loads(self.text)
        return found


def read(request: Mapping[str, Any], *, limits: Limits = DEFAULT_LIMITS) -> tuple[Message, ...]:
    """The messages of a request; its other fields are not read.

    Raises PromptError naming what is wrong and where.
    """
    request = _table(request, "request")
    contents = request.get("contents")
    contents = [contents] if isinstance(contents, Mapping) else contents
    if not isinstance(contents, Sequence) or isinstance(contents, str) or not contents:
        raise PromptError("contents: expected a list of at least one content")
    found = []
    if request.get("systemInstruction") is not None:
        instruction = _table(request["systemInstruction"], "systemInstruction")
        found.append(Message(role="system", parts=_parts(instruction, "systemInstruction", limits)))
    for number, given in enumerate(contents):
        where = f"contents[{number}]"
        content = _table(given, where)
        role = content.get("role") or "user"
        if not isinstance(role, str) or role not in ROLES:
            raise PromptError(f"{where}: role {str(role)[:40]!r} is not known; expected {', '.join(ROLES)}")
        found.append(Message(role=ROLES[role], parts=_parts(content, where, limits)))
    return tuple(found)


def _table(value: Any, where: str) -> dict[str, Any]:
    """A JSON object, its fields in the first spelling."""
    if not isinstance(value, Mapping):
        raise PromptError(f"{where}: expected an object, found {type(value).__name__}")
    return {SPELLED.get(str(name), str(name)): each for name, each in value.items()}


def _parts(content: Mapping[str, Any], where: str, limits: Limits) -> tuple[Text | Media, ...]:
    parts = content.get("parts")
    parts = [parts] if isinstance(parts, Mapping) else parts
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise PromptError(f"{where}.parts: expected a list of at least one part")
    return tuple(_part(_table(part, f"{where}.parts[{i}]"), f"{where}.parts[{i}]", limits)
                 for i, part in enumerate(parts))  # fmt: skip


def _part(part: Mapping[str, Any], where: str, limits: Limits) -> Text | Media:
    kinds = [name for name in ("text", "inlineData", "fileData", *CALLS) if name in part]
    if len(kinds) != 1:
        raise PromptError(f"{where}: expected one of text, inlineData, {', '.join(CALLS)}, found {kinds or 'none'}")
    kind, value = kinds[0], part[kinds[0]]
    if kind == "text":
        if not isinstance(value, str):
            raise PromptError(f"{where}.text: expected a text, found {type(value).__name__}")
        return Text(value)
    if kind == "fileData":
        raise PromptError(f"{where}.fileData: nothing is fetched from a URI; send the file itself as inlineData")
    table = _table(value, f"{where}.{kind}")
    if kind == "inlineData":
        return _media(table, f"{where}.{kind}", limits)
    name, given = table.get("name"), table.get(CALLS[kind]) or {}
    if not isinstance(name, str) or not name or not isinstance(given, Mapping):
        raise PromptError(f"{where}.{kind}: expected a name and, as {CALLS[kind]}, an object")
    return Call(json.dumps({kind: {"name": name, CALLS[kind]: given}}, ensure_ascii=True))


def _media(data: Mapping[str, Any], where: str, limits: Limits) -> Media:
    mime = str(data.get("mimeType") or "")
    if mime.partition("/")[0] not in KINDS:
        raise PromptError(f"{where}.mimeType: expected image/..., audio/... or video/..., found {mime[:40]!r}")
    try:
        decoded = decode_base64(data["data"]) if isinstance(data.get("data"), str) else b""
    except ValueError:
        decoded = b""
    if not decoded:
        raise PromptError(f"{where}.data: expected base64 of a file")
    return KINDS[mime.partition("/")[0]](decoded, limits)


def write(messages: Sequence[Message]) -> dict[str, Any]:
    """A request of these messages.  Raises PromptError for a role or media that the interface does not have."""
    names, found = {ours: theirs for theirs, ours in ROLES.items()}, {}
    contents = []
    for number, message in enumerate(messages):
        parts = [_written(part, f"messages[{number}]") for part in message.parts]
        if message.role == "system" and number == 0:
            found["systemInstruction"] = {"parts": parts}
        elif message.role in names:
            contents.append({"role": names[message.role], "parts": parts})
        else:
            raise PromptError(f"messages[{number}]: role {message.role!r} has no place there in generateContent")
    return {**found, "contents": contents}


def _written(part: Text | Media, where: str) -> dict[str, Any]:
    if isinstance(part, Call):
        return part.part
    if isinstance(part, Text):
        return {"text": part.text}
    source = part.source if isinstance(part, Image | Audio | Video) else None
    kind = sniff(source[:4096]) if isinstance(source, bytes) else None
    if kind is None or not isinstance(source, bytes) or (kind in IMAGE_FORMATS) != (part.mime == "image"):
        raise PromptError(f"{where}: expected {part.modality} as the bytes of a file, found {part!r}")
    data = base64.b64encode(source).decode()
    return {"inlineData": {"mimeType": f"{part.mime}/{FORMATS.get(kind, kind)}", "data": data}}
