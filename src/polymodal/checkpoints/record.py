"""Published checkpoint formats as data: which config and tensor names a system reads, at any size.

    config.json -> CheckpointFormat.matches -> .model_spec(config) -> ModelSpec: build() and the key tables
                -> strict load
    files without a config.json -> CheckpointFormat.infer(shapes) -> the same config dict

`parse_config` is the one parser of a config: published sizes, test sizes and any folder go through it.
Traps: a format may have several spellings of its names (libraries rename on load); each is a whole key table, and the
one that fits is used, never a mixture.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from polymodal.checkpoints.field_kinds import wrong_field
from polymodal.checkpoints.preprocessor_fields import check_preprocessor
from polymodal.errors import ConfigError, WeightsError
from polymodal.fields import check_fields, constructor_error, place_of, returned, shown
from polymodal.files import read_json
from polymodal.weights.config_limits import check_numbers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from polymodal.data.chat_template import ChatTemplate
    from polymodal.data.messages import Message
    from polymodal.data.tokenizer import Tokenizer
    from polymodal.pipelines.acting import Acting
    from polymodal.pipelines.composing import Composes
    from polymodal.pipelines.grounding import Grounding
    from polymodal.pipelines.guided_diffusion import OwnPipelines
    from polymodal.pipelines.image_generation import PaintRequest
    from polymodal.pipelines.modality_turning import Turner
    from polymodal.pipelines.spoken_answer import SpeaksAnswers
    from polymodal.pipelines.transcription.transcribe import Window
    from polymodal.weights.keytable import KeyTable

Shapes = Mapping[str, Sequence[int]]


Slot = Literal["encoder", "connector", "backbone", "output connector", "generator", "tool"]
SLOTS: tuple[Slot, ...] = ("encoder", "connector", "backbone", "output connector", "generator", "tool")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One box of the drawing: which of the five modules (or the tool that an agent calls), what goes in and comes out
    (shapes in words).

    prefix: dotted start of its parameter names in the built model; "" for a part that is loaded beside it, whose
    number of parameters is then given.  tokens: tokens per item it hands on.
    """

    slot: Slot
    name: str
    prefix: str
    input: str
    output: str
    modality: str = "text"
    tokens: int | None = None
    parameters: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.slot not in SLOTS:
            raise ConfigError(f"Part {self.name!r}: slot must be one of {', '.join(SLOTS)}, found {self.slot!r}")


@dataclass(frozen=True, kw_only=True)
class LearnsFrom:
    """What a loaded model's training data becomes, where its objectives cannot say.

    labels: the names of its classes in the order of its logits.  collator(objective, Learner) -> `Collator` of
    train/collator.py, None where the objective knows.
    """

    labels: tuple[str, ...] = ()
    collator: Callable[[Any, Any], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class HearsAndSpeaks(LearnsFrom):
    """What a loaded model does with sound; None where it cannot.

    transcribe(Audio) -> str, and transcribe_windows(Audio) -> the same piece by piece, where it is there before the
    recording ends (`transcribe.Window`).  speaks: what makes sound of answers, of a model that speaks itself.
    """

    transcribe: Callable[[Any], str] | None = None
    transcribe_windows: Callable[[Any], Iterator[Window]] | None = None
    speaks: SpeaksAnswers | None = None


@dataclass(frozen=True, kw_only=True)
class LoadedModel(HearsAndSpeaks):
    """A loaded system: the model with what it needs to answer a person.

    model: the nn.Module; of an agent one without parameters.  processor: messages -> batch, None where there is none.
    The functions are None where a system cannot do it: score(items of media, labels) -> probabilities
    [N, len(labels)], rows that sum to 1; embed(items) -> float32 [N, D], rows of length 1; both get whole batches.
    ground(answer, pictures) -> `Grounding`: the answer in plain words, and boxes of the things
    it is about, in the pictures of its conversation.  paint(PaintRequest) -> a picture of each seed, uint8 [H, W, 3],
    of a model that writes them itself.  act(instruction) -> `Acting`, which takes the pictures of a robot's step.
    turn: some modalities of a thing into others, of a model that reads and writes them by name.
    ends: the ids that end an answer and the one that pads it, where the published files say so.  settings: the other
    options of generation that they name.  text() -> the model that answers conversations without media, where that is
    not `model` itself; called when the first one comes.
    next_turn(messages, answer) -> the user message that an answer asks for, with a picture made of the one before, None
    where the answer is the last: `chat` answers that message too, in the same reply.  stop: texts that end an answer,
    where the published format has no token for that.  sampling: options of SamplingOptions that `chat` answers with
    where the caller gives none.
    paint may also be `OwnPipelines`: what draws the conditions of signal tokens; or what `Composes`: makes several
    kinds of media, as a `Composer` does from a mixture of conditions.
    """

    model: Any
    processor: Any
    text: Callable[[], Any] | None = None
    score: Callable[[Sequence[Any], Sequence[str]], Any] | None = None
    embed: Callable[[Sequence[Any]], Any] | None = None
    ground: Callable[[str, Sequence[Any]], Grounding] | None = None
    paint: Callable[[PaintRequest], Sequence[Tensor]] | OwnPipelines | Composes | None = None
    next_turn: Callable[[Sequence[Message], str], Message | None] | None = None
    act: Callable[[str], Acting] | None = None
    turn: Turner | None = None
    ends: tuple[Collection[int], int | None] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A published checkpoint on a hub: all its files, in one of the system's formats."""

    name: str
    revision: str = "main"
    license: str = ""
    kind: str = "hub"

    def __post_init__(self) -> None:
        check_fields(self)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}@{self.revision}"


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a published folder beside its weights."""

    folder: Path

    def json(self, name: str) -> dict[str, Any]:
        """A JSON table, empty when there is no such file.  Raises WeightsError when it is not one."""
        if not os.path.exists(self.folder / name):
            return {}
        found = read_json(self.folder / name)
        if not isinstance(found, dict):
            raise WeightsError(f"{self.folder / name}: expected a table, found {type(found).__name__}")
        return found

    def tensors(self, entry: Sequence[str] = ("",)) -> Mapping[str, Tensor]:
        """The weights, read when asked for; entry: where they lie inside a torch file, tried in order."""
        from polymodal.weights.folder import weights_in

        return weights_in(self.folder, entry)

    @cached_property
    def preprocessor(self) -> dict[str, Any]:
        """Settings of the picture (or sound) transform, wherever the library of the day wrote them."""
        name = "preprocessor_config.json"
        found = self.json(name)
        if not found:
            name = "processor_config.json"
            said = self.json(name).get("image_processor") or {}
            if not isinstance(said, Mapping):
                raise ConfigError(f"{self.folder / name}: image_processor: expected a table, found {shown(said)}")
            found = dict(said)
        check_preprocessor(found, self.folder / name)
        return found

    def tokenizer(self, **names: Any) -> Tokenizer:
        """The tokenizer of whichever vocabulary file there is, `read_tokenizer`; keywords as for `Tokenizer`."""
        from polymodal.data.tokenizer_files import read_tokenizer

        return read_tokenizer(self.folder, **names)

    def chat_template(
        self, tokenizer: Tokenizer, placeholders: Mapping[str, str] | None = None, *, add_special_tokens: bool = True
    ) -> ChatTemplate | None:
        """The format of the files' own chat template, None where they have none.

        placeholders: modality -> what the template writes for an item.  add_special_tokens: the published processor
        tokenises the finished prompt as any text, with the tokenizer's begin and end tokens around it; False: as it is.
        """
        from polymodal.data import chat_template as templates

        source = templates.template_source(self.folder)
        if source is None:
            return None
        around = (
            templates.special_tokens_around(self.folder, tokenizer)
            if add_special_tokens
            else templates.NO_SPECIAL_TOKENS
        )
        return templates.chat_template(source, self.folder, tokenizer, placeholders or {}, around)

    def lacks_tokenizer(self) -> str | None:
        """Why no tokenizer can be made of these files (none, or of a kind not supported), None where one can."""
        from polymodal.data.tokenizer_files import lacks_vocabulary

        return lacks_vocabulary(self.folder)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What one config describes.

    build() -> module with fresh weights, also on the meta device.  keys: spellings of the names on disk, each a whole
    strict table; export writes the first.  in_memory: the table of the names that the library's class has in memory,
    in which PEFT writes adapters, where they are not those of the first table.  parts: the drawing.
    assemble(module, CheckpointFiles) -> LoadedModel, for folders that hold a tokenizer (tokenizer False: for all).
    ends: ids that end an answer and the one that pads it, where the model has its own and the folder's generation
    settings do not count.
    """

    build: Callable[[], nn.Module]
    keys: tuple[KeyTable, ...]
    in_memory: KeyTable | None = None
    parts: tuple[Part, ...] = ()
    assemble: Callable[[nn.Module, CheckpointFiles], LoadedModel] | None = None
    tokenizer: bool = True
    ends: tuple[Collection[int], int | None] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.keys:
            raise ConfigError("ModelSpec: keys must hold one KeyTable at least, found none")

    @property
    def adapter_keys(self) -> tuple[KeyTable, ...]:
        """Spellings that adapters may have; new ones are written in the first."""
        return self.keys if self.in_memory is None else (self.in_memory, *self.keys)


@dataclass(frozen=True, kw_only=True)
class ConfigMatch:
    """Whether a config.json is of one format: `match(config)` -> 0 for another's, else what `score` says.

    A config is ours only if it has one of the model types, names one of the architectures or has one of the keys; so
    a table of these words (systems/_recognition.py) tells which systems to ask, without importing the others.
    """

    score: Callable[[Mapping[str, Any]], int | bool] = lambda config: 1
    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, config: Mapping[str, Any]) -> int:
        named = config.get("architectures") or ()
        ours = (
            config.get("model_type") in self.model_types
            or any(name in self.architectures for name in named)
            or any(key in config for key in self.keys)
        )
        return int(self.score(config)) if ours else 0


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat:
    """One published checkpoint format.

    name: whose it is, for people.  matches(config) -> 0 for another's, 1 for ours, more for ours in particular (when
    systems share a format); of the catalogue a `ConfigMatch`.  infer(shapes) -> a config for files that come without
    one, None for another's.  entry: the keys of the tensors inside a torch file, tried in order.  gather: collects the
    tensors where they lie in several files with names of their own.  one_file: saving writes them into one, since the
    config finds the others by paths.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], int | bool]
    parse_config: Callable[[Mapping[str, Any]], ModelSpec]
    infer: Callable[[Shapes], Mapping[str, Any] | None] | None = None
    entry: tuple[str, ...] = ("",)
    gather: Callable[[CheckpointFiles], Mapping[str, Tensor]] | None = None
    one_file: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    def model_spec(self, config: Mapping[str, Any]) -> ModelSpec:
        """`parse_config` with a clear error for a config that lacks what it needs or describes no module.

        Its numbers are bounded first (weights/config_limits.py).  Raises ConfigError, also for a `parse_config` that
        gives no ModelSpec.
        """
        check_numbers(config, f"{self.name}: config.json")
        with understood(f"{self.name}: config.json", config):
            return returned(self.parse_config(config), ModelSpec, f"{self.name}: parse_config")


RECORDS = {each.__name__: each for each in (Part, LoadedModel, Repository, ModelSpec, ConfigMatch, CheckpointFormat)}


_OF_A_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


@contextmanager
def understood(what: str, config: Mapping[str, Any] | None = None) -> Iterator[None]:
    """What published files say is not ours: numbers that make no sense of it are a ConfigError of one line.

    config: what is read; the field that is of a wrong kind is named where it can be told.  Errors of the machine (its
    disk, its memory) come through.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, StopIteration, AssertionError, ArithmeticError, ValueError, IndexError,
            RuntimeError, re.error) as problem:  # fmt: skip
        if any(sign in str(problem) for sign in _OUT_OF_MEMORY):
            raise
        raise ConfigError(_misunderstood(problem, what, config)) from problem
    except OSError as problem:
        if problem.errno not in _OF_A_NAME:
            raise
        raise ConfigError(f"{what} names a file that cannot be: {problem.strerror}") from problem


def _misunderstood(problem: Exception, what: str, config: Mapping[str, Any] | None) -> str:
    if record := constructor_error(problem, RECORDS):
        return f"{what}: while it was read, {place_of(problem)}: {record}"
    if isinstance(problem, KeyError):
        return f"{what} lacks {problem.args[0] if problem.args else None!r}, which is needed"
    if isinstance(config, Mapping) and (field := wrong_field(config) or wrong_field(config, "None" in str(problem))):
        return f"{what}: {field}"
    if isinstance(problem, TypeError | AttributeError | StopIteration | AssertionError):
        return f"{what} has a value of another kind: {_first_line(problem)} ({place_of(problem)})"
    return f"{what} has a value out of range: {_first_line(problem)}"


def with_own_head(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a file whose head differs from the embedding it is said to repeat: nothing is tied, at any level.

    T5 goes on scaling what enters its head, which its configs say by the same word.
    """
    found = {name: with_own_head(value) if isinstance(value, Mapping) else value for name, value in config.items()}
    if config.get("model_type") == "t5":
        found.setdefault("scale_decoder_outputs", config.get("tie_word_embeddings", True))
    return found | {"tie_word_embeddings": False}


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]


def hf(model_type: str, *architectures: str) -> ConfigMatch:
    """Matches a config.json by its `model_type` and, where both name some, its `architectures`."""

    def score(config: Mapping[str, Any]) -> bool:
        named = config.get("architectures") or ()
        return not architectures or not named or any(name in architectures for name in named)

    return ConfigMatch(score=score, model_types=(model_type,))
