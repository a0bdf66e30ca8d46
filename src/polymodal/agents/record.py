"""What an agent is given and what it gives back.

    Setup(planner, tools, limits) -> system's `LoadedModel.agent` -> Agent;  agent.ask(text, files) -> Answer

An answer holds every step, also those that were refused or failed: a plan with one wrong step is still told whole.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from polymodal.agents.files import Files
from polymodal.agents.planner import Planner
from polymodal.agents.tools import Tool, Toolbox
from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AgentLimits:
    """steps: calls of tools in one answer.  seconds: of one answer, looked at between steps.  workers: tasks that run
    at once.  retries: how often a planner may write what cannot be read, in one answer."""

    steps: int = 15
    seconds: float = 600.0
    workers: int = 4
    retries: int = 3

    def __post_init__(self) -> None:
        for name in ("steps", "workers"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigError(f"agent limits: {name} must be 1 or more, found {getattr(self, name)!r}")
        if not self.seconds > 0 or type(self.retries) is not int or self.retries < 0:
            raise ConfigError(f"agent limits: seconds must be above 0 and retries 0 or more, found {self}")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step.  tool: as the planner called it.  arguments: as it wrote them.  result: in words, or the made file's
    name; error: why there is none.  model: who did the work.  id: of a task in a graph."""

    tool: str
    arguments: str
    result: str = ""
    error: str = ""
    thought: str = ""
    model: str = ""
    made: str = ""
    seconds: float = 0.0
    id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """finish: "stop", "steps" (too many), "seconds", "loop" (the same step again and again), "unreadable" (a planner
    whose outputs cannot be read), "planner" (it failed after some steps).  made: names of the files that tools made."""

    text: str
    steps: tuple[Step, ...] = ()
    made: tuple[str, ...] = ()
    finish: str = "stop"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What an agent works with.  prompt: the user's own wording, in the form that the system says; "": ours."""

    planner: Planner
    tools: Toolbox
    limits: AgentLimits = field(default_factory=AgentLimits)
    prompt: str = ""


@runtime_checkable
class Agent(Protocol):
    """A conversation with an agent; `tools` are those that it offers its planner, under its own names."""

    tools: Sequence[Tool]

    def ask(self, text: str, given: Sequence[str], files: Files) -> Answer:
        """Answer a request about the files of these names."""
        ...


class Clock:
    """Seconds since it was made, against a limit."""

    def __init__(self, seconds: float) -> None:
        self._begin, self._limit = time.monotonic(), seconds

    @property
    def over(self) -> bool:
        return time.monotonic() - self._begin > self._limit
