"""Tools: what an agent may call, with the types of what goes in and comes out.

    Tool(name="caption", task="image-to-text", inputs={"image": "image"}, output="text", run=describe)
    tool.call({"image": picture}) -> a text; anything else is a ToolError of one line

`task` is what the tool is for, in the words of the hub's tasks ("image-to-text", "visual-question-answering", ...):
each system finds its tools by it and shows them to its planner under the names of its paper. Values are plain: text is
str, number int or float, image, audio and video the records of data/media.py, texts a tuple of str, boxes a tuple of
`Box`, labels a tuple of (name, share).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from polymodal.agents.tasks import TASKS
from polymodal.data.media import Audio, Image, Video
from polymodal.errors import ConfigError, PolymodalError
from polymodal.fields import check_fields


class ToolError(PolymodalError):
    """A call that was refused or failed: an unknown tool, a wrong argument, a file that is not there, a result of
    another kind than the tool's."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where a thing is, in pixels from the top left corner.  score: 0..1, None where nothing says."""

    label: str
    left: int
    top: int
    right: int
    bottom: int
    score: float | None = None


def _boxes(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, Box) for each in value)


def _labels(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str) and isinstance(each[1], int | float)
        for each in value
    )


KINDS: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "texts": lambda value: isinstance(value, tuple) and all(isinstance(each, str) for each in value),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "image": lambda value: isinstance(value, Image),
    "audio": lambda value: isinstance(value, Audio),
    "video": lambda value: isinstance(value, Video),
    "boxes": _boxes,
    "labels": _labels,
}
MEDIA = ("image", "audio", "video")


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One tool.  inputs: argument -> kind, in order; optional: arguments that may be left out.  output: a kind.

    run(**arguments) -> value.  description: one sentence for a planner.  model: whose work it is, for the trace. Raises
    ConfigError for kinds that do not exist.
    """

    name: str
    task: str
    inputs: Mapping[str, str]
    output: str
    run: Callable[..., Any]
    description: str = ""
    model: str = ""
    optional: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        for place, kind in (*self.inputs.items(), ("output", self.output)):
            if kind not in KINDS:
                raise ConfigError(f"Tool {self.name!r}: {place}: expected one of {', '.join(KINDS)}, found {kind!r}")
        if strange := sorted(set(self.optional) - set(self.inputs)):
            raise ConfigError(f"Tool {self.name!r}: optional names {strange[0]!r}, which is no input")
        wanted = TASKS.get(self.task)
        if wanted is not None and (dict(self.inputs), self.output) != (dict(wanted.inputs), wanted.output):
            raise ConfigError(
                f"Tool {self.name!r}: a tool for {self.task} is {wanted.signature}, found {self.signature}"
            )

    @property
    def signature(self) -> str:
        """`(image: image, text: text) -> text`; an optional input has a question mark."""
        inputs = [f"{name}{'?' if name in self.optional else ''}: {kind}" for name, kind in self.inputs.items()]
        return f"({', '.join(inputs)}) -> {self.output}"

    def named(self, name: str, description: str) -> Tool:
        """The same tool as a system calls it."""
        return replace(self, name=name, description=description, model=self.model or self.name)

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """The checked result of checked arguments.  Raises ToolError, also for what goes wrong inside the tool."""
        if missing := [name for name in self.inputs if name not in arguments and name not in self.optional]:
            raise ToolError(f"{self.name}: needs {', '.join(missing)}; it is {self.signature}")
        if strange := sorted(set(arguments) - set(self.inputs)):
            raise ToolError(f"{self.name}: takes no {strange[0]!r}; it is {self.signature}")
        for name, value in arguments.items():
            if not KINDS[self.inputs[name]](value):
                raise ToolError(f"{self.name}: {name}: expected {self.inputs[name]}, found {kind_of(value)}")
        try:
            found = self.run(**arguments)
        except ToolError:
            raise
        except PolymodalError as problem:
            raise ToolError(f"{self.name}: {problem}") from problem
        except Exception as problem:  # a tool is anybody's function: its error must not end the plan
            raise ToolError(f"{self.name} failed: {type(problem).__name__}: {problem}") from problem
        if not KINDS[self.output](found):
            raise ToolError(f"{self.name}: gave {kind_of(found)}, where {self.output} was expected")
        return found


def kind_of(value: Any) -> str:
    """The kind of a value, in words; of something else its type."""
    return next((name for name, fits in KINDS.items() if fits(value)), type(value).__name__)


def as_text(value: Any) -> str:
    """A result in words, as a planner reads it; media have names and no words."""
    if isinstance(value, str):
        return value
    if _boxes(value):
        return "; ".join(f"{b.label} at {b.left}, {b.top}, {b.right}, {b.bottom}" for b in value) or "nothing was found"
    if _labels(value):
        return ", ".join(f"{name} ({share:.2f})" for name, share in value)
    return str(value)


@dataclass(frozen=True)
class Toolbox:
    """Tools by what they are for.  Raises ConfigError for two of one name."""

    tools: tuple[Tool, ...] = field(default=())

    def __post_init__(self) -> None:
        names = [tool.name for tool in self.tools]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two tools have the same name, {twice[0]!r}; give one of them another")

    def of(self, task: str) -> tuple[Tool, ...]:
        """The tools of a task, in the order they were given."""
        return tuple(tool for tool in self.tools if tool.task == task)

    def first(self, *tasks: str) -> Tool | None:
        """The first tool of the first of these tasks that has one."""
        return next((tool for task in tasks for tool in self.of(task)), None)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tool.task for tool in self.tools))


def listed(names: Iterable[str]) -> str:
    """Names for a message: "a, b, c", "none" where there are none."""
    return ", ".join(names) or "none"
