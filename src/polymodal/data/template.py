"""A prompt format as data: messages -> segments, whose text is tokenised in runs between special tokens.

Flow: Message(role, parts) -> the role's Turn: before | parts | after -> Special, Words and Slot segments, each
marked with `loss_mask` -> the processor makes ids, labels and placeholders of them in one pass.  Labels are thus right
by construction: nothing is searched for in finished ids.
Traps: neighbouring words are tokenised together, whether they carry loss or not, so that the ids equal those of the
rendered string (`data/row_builder.py`); a format whose code tokenises its pieces apart says so with TEXT_START.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.errors import ConfigError, PromptError


@dataclass(frozen=True, kw_only=True)
class Special:
    """One special token, by name.  token_type: the modality route it takes (0 text), see `data/modalities.py`."""

    name: str
    loss_mask: bool = False
    token_type: int = 0


@dataclass(frozen=True, kw_only=True)
class Words:
    """Plain text; whatever it says, it cannot become a special token."""

    text: str
    loss_mask: bool = False


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where one item of media goes; the processor writes its placeholders there."""

    media: Media


@dataclass(frozen=True, kw_only=True)
class TextStart:
    """Published code calls its tokenizer anew here: what follows is tokenised as a text of its own.

    Not written after the begin token of a prompt that the published processor tokenises with that token inside.
    """


TEXT_START = TextStart()
Written = Special | Words | TextStart
Segment = Written | Slot


class Format(Protocol):
    """What renders a conversation: a Template, or something around one."""

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]: ...


@dataclass(frozen=True, kw_only=True)
class MissingFormat:
    """In place of a format that neither a checkpoint brings nor its vocabulary implies.  reason: for people."""

    reason: str

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Raises PromptError with the reason."""
        raise PromptError(f"messages: {self.reason}")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """How the messages of one role are written.  loss_mask: the model is trained to write this message."""

    before: tuple[Written, ...] = ()
    after: tuple[Written, ...] = ()
    loss_mask: bool = False


@dataclass(frozen=True, kw_only=True)
class Template:
    """A conversation format.

    turns: role -> Turn.  begin: once at the start.  ask: written at the end to make the model answer.
    default_system: system message used when the conversation does not begin with one; None = none.
    end: written behind a finished conversation that ends in an answer, where the answer's end token stands only there.
    following: (role before, role) -> how that message is written right behind such a one (Llama 2 puts the system
    message inside the first user's).
    """

    turns: Mapping[str, Turn]
    begin: tuple[Written, ...] = ()
    ask: tuple[Written, ...] = ()
    default_system: str | None = None
    end: tuple[Written, ...] = ()
    following: Mapping[tuple[str, str], Turn] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.default_system is not None and "system" not in self.turns:
            raise ConfigError("template: default_system is set, but there is no turn for the role 'system'")

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Segments of a conversation; `ask` adds the words that make the model answer.

        Raises: PromptError for no message or for a role the format does not know.
        """
        if not messages:
            raise PromptError("messages: expected at least one message, found none")
        if self.default_system is not None and messages[0].role != "system":
            messages = [Message(role="system", parts=(Text(self.default_system),)), *messages]
        segments: list[Segment] = list(self.begin)
        before = ""
        for message in messages:
            segments += self._turn(message, before)
            before = message.role
        end = self.end if before == "assistant" else ()
        return _joined([*segments, *(self.ask if ask else end)])

    def _turn(self, message: Message, before: str) -> Iterable[Segment]:
        turn = self.following.get((before, message.role)) or self.turns.get(message.role)
        if turn is None:
            known = ", ".join(self.turns)
            raise PromptError(f"messages: this model has no role {message.role!r}; it knows {known}")
        yield from turn.before
        for part in message.parts:
            if isinstance(part, Text):
                yield Words(text=part.text, loss_mask=turn.loss_mask)
            else:
                yield Slot(media=part)
        yield from turn.after


def _joined(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Neighbouring words with the same `loss_mask` become one; empty ones are dropped."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if isinstance(segment, Words) and isinstance(last, Words) and segment.loss_mask == last.loss_mask:
            joined[-1] = replace(last, text=last.text + segment.text)
        elif not isinstance(segment, Words) or segment.text:
            joined.append(segment)
    return tuple(joined)


def written(segments: Iterable[Segment]) -> str:
    """The segments as one string, for people and for comparison with a published format; media as <image>."""
    return "".join(_written(segment) for segment in segments)


def _written(segment: Segment) -> str:
    if isinstance(segment, Special):
        return segment.name
    if isinstance(segment, Words):
        return segment.text
    return f"<{segment.media.modality}>" if isinstance(segment, Slot) else ""


def chatml(*, default_system: str | None, roles: Sequence[str] = ("system", "user", "assistant")) -> Template:
    """ChatML: `<|im_start|>role\\n ... <|im_end|>\\n`; loss on the assistant's words and its end token."""

    def turn(role: str) -> Turn:
        answer = role == "assistant"
        before = (Special(name="<|im_start|>"), Words(text=f"{role}\n"))
        after = (Special(name="<|im_end|>", loss_mask=answer), Words(text="\n"))
        return Turn(before=before, after=after, loss_mask=answer)

    turns = {role: turn(role) for role in roles}
    return Template(turns=turns, ask=turn("assistant").before, default_system=default_system)


# Source: `tokenizer.chat_template` in the metadata of the published SmolLM2-135M-Instruct GGUF.
SMOLLM2 = chatml(default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face")
