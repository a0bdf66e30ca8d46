"""The chat template that a checkpoint brings along (Jinja) as a format: messages -> segments.

    chat_template.json | chat_template.jinja | `chat_template` in tokenizer_config.json -> source (`template_source`)
    messages -> plain data, each text replaced by a marker of its own -> the template, in the sandbox -> its text
    -> cut at the markers: what a person wrote -> Words;  what the template wrote -> Special, Slot and Words

Special tokens and placeholders come from this run alone, in which the template sees nothing of the messages: whatever
a person typed, it cannot become one, and the ids equal those of the published processor on the same messages.
A second run with the words themselves shows where the template changes them (cuts thoughts out of earlier answers);
its text between two special tokens is taken where the special tokens are the same in both.
Loss: on what stands between the template's `generation` tags where it has them, else on the assistant's words and a
special token right behind them.
Traps: white space at the ends of a text stays outside its marker, since many templates trim; templates of text models
expect `content` to be a text, others a list of parts, which is tried once.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from polymodal.data.generation_marks import GENERATION_END, GENERATION_START
from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.data.template import TEXT_START, Segment, Slot, Special, Words
from polymodal.data.token_settings import read_settings
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.vocabulary_files import read_table, read_text
from polymodal.errors import ConfigError, PromptError

JSON, JINJA, CONFIG = "chat_template.json", "chat_template.jinja", "tokenizer_config.json"
Around = tuple[tuple[str, ...], tuple[str, ...]]
NO_SPECIAL_TOKENS: Around = ((), ())
MARK_START, MARK_END, BREAK = "\ue000", "\ue001", "\ue002"  # private use: no template writes them


class _TooLong(PromptError):
    """The template was stopped."""


@dataclass(frozen=True, kw_only=True)
class TemplateSource:
    """A template's text and the file it is from."""

    text: str
    file: str


def template_source(folder: Path) -> TemplateSource | None:
    """The chat template of a folder, the default one where it has several; None where it has none.

    Raises WeightsError for files that are damaged, ConfigError for an entry that is no template.
    """
    found = read_table(folder / JSON).get("chat_template")
    if found is None and (folder / JINJA).is_file():
        return TemplateSource(text=read_text(folder / JINJA), file=JINJA)
    file = JSON if found is not None else CONFIG
    if found is None:
        found = read_table(folder / CONFIG).get("chat_template")
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        found = {each.get("name"): each.get("template") for each in found}
    if isinstance(found, dict):
        if "default" not in found:
            return None
        found = found["default"]
    if found is None:
        return None
    if not isinstance(found, str):
        raise ConfigError(f"{folder / file}: chat_template must be a text, found {type(found).__name__}")
    return TemplateSource(text=found, file=file)


def special_tokens_around(folder: Path, tokenizer: Tokenizer) -> Around:
    """The special tokens that a folder's tokenizer puts before and behind a text."""
    explicit = {role: read_settings(folder).options.get(f"add_{role}_token") for role in ("bos", "eos")}
    if not any(isinstance(flag, bool) for flag in explicit.values()):
        return tokenizer.special_tokens_around
    names = _role_names(folder, tokenizer)
    before, behind = ((names[role],) if flag and role in names else () for role, flag in explicit.items())
    return before, behind


def chat_template(
    source: TemplateSource, folder: Path, tokenizer: Tokenizer, placeholders: Mapping[str, str], around: Around
) -> ChatTemplate:
    """The format of a source, with the special tokens that the tokenizer's files name as its variables."""
    names = _role_names(folder, tokenizer)
    variables = {f"{role}_token": name for role, name in names.items()}
    return ChatTemplate(
        source=source, tokenizer=tokenizer, placeholders=placeholders, variables=variables, special_tokens_around=around
    )


def _role_names(folder: Path, tokenizer: Tokenizer) -> dict[str, str]:
    """Role ("bos", "eos", "image", ...) -> special token."""
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    names = {role: token.content for role, token in read_settings(folder).roles.items() if token is not None}
    return names | {role: tokenizer.token(index) for role, index in ids.items() if index is not None}


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A format that the checkpoint itself brings.

    placeholders: modality -> the text that the template writes for an item.  variables: what the template may name
    beside the messages (bos_token, ...).  special_tokens_around: what the tokenizer puts before and behind a prompt,
    left out where the template writes the begin token itself.
    """

    source: TemplateSource
    tokenizer: Tokenizer
    placeholders: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    special_tokens_around: Around = NO_SPECIAL_TOKENS

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Segments of a conversation; `ask` adds the words that make the model answer.

        Raises: PromptError for no message, for messages that the template refuses or leaves media of out, and where the
        template itself fails or runs for too long.
        """
        if not messages:
            raise PromptError("messages: expected at least one message, found none")
        for name in dict.fromkeys(item.modality for message in messages for item in message.media):
            if name not in self.placeholders:
                raise PromptError(f"messages: this model takes {', '.join(['text', *self.placeholders])}; found {name}")
        draft = _TemplateInput(as_parts=self._takes_parts)
        text = self._run(draft.chat(messages), ask)
        segments = self._with_rewritten_text(list(self._segments(text, draft)), messages, ask)
        self._check_media(messages, segments)
        if not text.strip():
            raise PromptError(f"messages: {self.source.file} writes nothing for them; it is not a chat template")
        begin = self.variables.get("bos_token")
        if begin and text.startswith(begin):
            return tuple(segments)
        before, behind = ([Special(name=name) for name in names] for names in self.special_tokens_around)
        return (*before, TEXT_START, *segments, *behind)

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether `content` is a list of parts for this template, and not a text."""
        probe = [Message(role="user", parts=(Text("x"),))]
        texts = []
        for as_parts in (False, True):
            draft = _TemplateInput(as_parts=as_parts)
            try:
                text = self._run(draft.chat(probe), True)
            except _TooLong:  # nor would it end in another try
                raise
            except PromptError:
                text = ""
            (marker,) = draft.texts
            texts.append(text.replace(marker, "x") if marker in text else None)
        # A template for texts prints a list of parts as Python does.
        return texts[0] is None or texts[0] == texts[1]

    @cached_property
    def _template(self) -> Callable[..., str]:
        from polymodal.data.jinja_sandbox import compiled

        return self._guarded(lambda: compiled(self.source.text))

    def _run(self, chat: list[dict[str, Any]], ask: bool) -> str:
        variables = {"tools": None, "documents": None, **self.variables}
        template = self._template
        return self._guarded(lambda: template(messages=chat, add_generation_prompt=ask, **variables))

    def _guarded(self, run: Callable[[], Any]) -> Any:
        """`run()`, whose every failure is the template's."""
        from polymodal.data.jinja_sandbox import Refusal
        from polymodal.data.jinja_values import OutOfTime

        try:
            return run()
        except Refusal as refusal:
            raise PromptError(f"messages: {self.source.file} refuses them: {_line(refusal)}") from None
        except Exception as problem:
            kind = _TooLong if isinstance(problem, OutOfTime) else PromptError
            raise kind(
                f"{self.source.file}: the chat template cannot be used ({type(problem).__name__}: {_line(problem)})"
            ) from None

    def _segments(self, text: str, draft: _TemplateInput) -> Iterator[Segment]:
        """The template's text, cut where a person's words or media go."""
        marks = (GENERATION_START, GENERATION_END)
        tagged, inside, answered = GENERATION_START in text, False, False
        for piece in _any_of([*draft.texts, *draft.media, *marks]).split(text):
            if piece in marks:
                inside = piece == GENERATION_START
            elif piece in draft.media:
                yield Slot(media=draft.media[piece])
            elif piece in draft.texts:
                role, words = draft.texts[piece]
                answered = not tagged and role == "assistant"
                yield Words(text=words, loss_mask=inside or answered)
            elif piece:
                yield from self._written(piece, draft, inside, answered)
                answered = False

    def _written(self, text: str, draft: _TemplateInput, loss: bool, answered: bool) -> Iterator[Segment]:
        """What the template wrote; answered: an answer ends in front of it."""
        if MARK_START in text or MARK_END in text:
            raise PromptError(
                f"messages: {self.source.file} cuts or changes what is said in a way that is not followed"
            )
        pieces = self._tokens.split(text)
        # The special token right behind an answer is what the model ends it with.
        ending = 1 if answered and len(pieces) > 1 and not pieces[0].strip() else -1
        for index, piece in enumerate(pieces):
            with_loss = loss or index <= ending
            if index % 2 == 0:
                yield Words(text=piece, loss_mask=with_loss)
            elif piece in self._modalities:
                yield Slot(media=draft.next_media(self._modalities[piece]))
            else:
                yield Special(name=piece, loss_mask=with_loss)

    def _with_rewritten_text(self, segments: list[Segment], messages: Sequence[Message], ask: bool) -> list[Segment]:
        """The segments with their texts as the template writes them when it sees what is said."""
        if any(BREAK in message.text for message in messages):
            return segments
        draft = _TemplateInput(as_parts=self._takes_parts, broken=self._tokens)
        try:
            text = self._run(draft.chat(messages), ask).replace(GENERATION_START, "").replace(GENERATION_END, "")
        except PromptError:  # above all, what is said is longer than a template may handle
            return segments
        pieces = _any_of([*draft.media, *self._names]).split(text)
        between = [segment for segment in segments if not isinstance(segment, Words)]
        same = (self._is(name, segment, draft) for name, segment in zip(pieces[1::2], between, strict=False))
        if len(pieces) // 2 != len(between) or not all(same):
            return segments
        changed: list[Segment] = []
        waiting = list(segments)
        for piece, end in zip(pieces[::2], [*between, None], strict=True):
            run: list[Words] = []
            while waiting and isinstance(waiting[0], Words):
                run.append(waiting.pop(0))  # type: ignore[arg-type]
            changed += rewritten(run, piece.replace(BREAK, ""))
            if end is not None:
                changed.append(waiting.pop(0))
        return changed

    def _is(self, name: str, segment: Segment, draft: _TemplateInput) -> bool:
        """Whether `name` in a template's text stands for this special token or item."""
        if isinstance(segment, Slot):
            return self._modalities.get(name) == segment.media.modality or draft.media.get(name) is segment.media
        return isinstance(segment, Special) and segment.name == name

    @cached_property
    def _modalities(self) -> Mapping[str, str]:
        return {text: name for name, text in self.placeholders.items()}

    @cached_property
    def _names(self) -> list[str]:
        """Special tokens and placeholders; of two that begin together the longer comes first."""
        return sorted({*self.tokenizer.special_tokens, *self._modalities}, key=len, reverse=True)

    @cached_property
    def _tokens(self) -> re.Pattern[str]:
        return _any_of(self._names)

    def _check_media(self, messages: Sequence[Message], segments: Sequence[Segment]) -> None:
        given = Counter(item.modality for message in messages for item in message.media)
        written = Counter(segment.media.modality for segment in segments if isinstance(segment, Slot))
        for name, count in given.items():
            if written[name] != count:
                raise PromptError(
                    f"messages: {self.source.file} writes {written[name]} of {count} items of {name}; "
                    "this model's chat template takes no more"
                )


class _TemplateInput:
    """One conversation as the template sees it, with what its markers stand for.

    as_parts: `content` is a list of parts and not a text.  broken: words are not replaced by markers, but what of them
    looks like one of these tokens is broken up.  texts: marker -> role and words.  media: marker -> item, where
    `content` is a text.
    """

    def __init__(self, *, as_parts: bool, broken: re.Pattern[str] | None = None) -> None:
        self._as_parts = as_parts
        self._broken = broken
        self._secret = secrets.randbelow(10**18)  # no template can have written it; digits have no case
        self._waiting: dict[str, list[Media]] = {}
        self.texts: dict[str, tuple[str, str]] = {}
        self.media: dict[str, Media] = {}

    def chat(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Plain data for the variable `messages`."""
        chat = []
        for message in messages:
            parts = [self._part(part, message.role) for part in message.parts]
            whole: Any = parts
            if not self._as_parts:
                whole = "".join(part["text"] if part["type"] == "text" else part["marker"] for part in parts)
            chat.append({"role": message.role, "content": whole})
        return chat

    def next_media(self, modality: str) -> Media:
        """The item that the next placeholder of this modality stands for.  Raises PromptError when all are used."""
        waiting = self._waiting.get(modality)
        if not waiting:
            raise PromptError(
                f"messages: the chat template writes more placeholders of {modality} than there are items"
            )
        return waiting.pop(0)

    def _part(self, part: Text | Media, role: str) -> dict[str, Any]:
        if isinstance(part, Text):
            words = part.text.strip()
            if self._broken is not None:
                return {
                    "type": "text",
                    "text": self._broken.sub(lambda found: f"{found[0][0]}{BREAK}{found[0][1:]}", part.text),
                }
            if not words:
                return {"type": "text", "text": part.text}
            marker = self._marker()
            self.texts[marker] = (role, words)
            start = part.text.index(words)
            return {"type": "text", "text": part.text[:start] + marker + part.text[start + len(words) :]}
        if self._as_parts:
            self._waiting.setdefault(part.modality, []).append(part)
            return {"type": part.modality, part.modality: part.modality}
        marker = self._marker()
        self.media[marker] = part
        # Published prompts for templates of text alone have the placeholder on a line of its own.
        return {"type": part.modality, "marker": f"{marker}\n"}

    def _marker(self) -> str:
        return f"{MARK_START}{self._secret}:{len(self.texts) + len(self.media)}{MARK_END}"


def rewritten(run: Sequence[Words], text: str) -> list[Words]:
    """A run of words that reads `text` now, with loss on what stands for what had it."""
    before = "".join(words.text for words in run)
    if before == text:
        return list(run)
    losses = [words.loss_mask for words in run for _ in words.text]
    head = _shared(before, text)
    tail = _shared(before[head:][::-1], text[head:][::-1])
    middle = [any(losses[head : len(before) - tail])] * (len(text) - head - tail)
    masks = [*losses[:head], *middle, *losses[len(losses) - tail :]]
    made: list[Words] = []
    for letters in groupby(zip(text, masks, strict=True), key=lambda pair: pair[1]):
        made.append(Words(text="".join(letter for letter, _ in letters[1]), loss_mask=letters[0]))
    return made


def _shared(left: str, right: str) -> int:
    """How many letters both begin with."""
    differ = (index for index, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    return next(differ, min(len(left), len(right)))


def _any_of(names: Sequence[str]) -> re.Pattern[str]:
    """What splits a text at the names, which are kept; at nothing without names."""
    return re.compile("(" + "|".join(map(re.escape, names)) + ")" if names else r"(\b\B)")


def _line(problem: Exception) -> str:
    """What is wrong in one line, without the places in memory that Python writes into the names of functions."""
    return " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", str(problem)[:4000]).split())[:200]
