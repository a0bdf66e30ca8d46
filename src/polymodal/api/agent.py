"""`pm.agent`: a planner that works with tools on your files.

agent = pm.agent("visual-chatgpt", planner="http://127.0.0.1:8000/v1", tools=["mini"])
reply = agent.ask(pm.image("photo.jpg"), "What is in it, and where are its edges?")
reply.text, reply.media["image"], reply.steps
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.agents.files import Files, media_kind
from polymodal.agents.module import AgentModule
from polymodal.agents.pictures import picture_tools
from polymodal.agents.planner import Endpoint, Planner, Said, Scripted, cut
from polymodal.agents.record import AgentLimits, Setup, Step
from polymodal.agents.tools import Tool, Toolbox
from polymodal.api.agent_tools import reading_tools, tools_of, voice_tool
from polymodal.api.media import as_media
from polymodal.api.reply import Reply
from polymodal.api.voice import Voice, voice
from polymodal.data.media import Image, Media, Text
from polymodal.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from polymodal.api.model import Model

KEY = "POLYMODAL_PLANNER_KEY"
SPEECH = "kokoro"
NAMED = re.compile(r"(?:image|audio|video)/[-\w]+\.(?:png|wav|mp4)")


class LocalPlanner:
    """A chat model that plans.  tokens: at most of one output."""

    def __init__(self, model: Model, tokens: int = 512) -> None:
        model.require("chat")
        self.model, self._tokens, self._lock = model, tokens, threading.Lock()

    def __call__(self, messages: Sequence[Said], stop: Sequence[str] = ()) -> str:
        with self._lock:
            return cut(
                self.model.chat([dict(each) for each in messages], max_tokens=self._tokens, stop=tuple(stop)).text, stop
            )


class AgentChat:
    """A conversation with an agent; made by `pm.agent`.  files: all that was given and made, by names; tools: what the
    agent offers its planner; planner: who plans."""

    def __init__(self, model: Model, setup: Setup, seed: int = 0) -> None:
        self.model, self.planner, self.files = model, setup.planner, Files(seed)
        self._agent = model.module.begin(setup)

    @property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(self._agent.tools)

    def ask(self, *content: Any) -> Reply:
        """A request in words, with pictures, recordings and videos, or pathlib.Paths of them.

        Raises PromptError for a request without words and for media that the agent does not take.
        """
        begin, words, given = time.perf_counter(), [], []
        for each in content:
            item = Text(each) if isinstance(each, str) else as_media(each)
            if item is None:
                raise PromptError(f"expected texts and media, found {type(each).__name__}")
            if isinstance(item, Text):
                words.append(item.text)
                continue
            if media_kind(item) not in self.model.system.inputs:
                raise PromptError(
                    f"{self.model.name} takes {', '.join(self.model.system.inputs)}; found {media_kind(item)}"
                )
            given.append(self.files.give(decoded(item)))
        if not " ".join(words).strip():
            raise PromptError('the request is empty; as in agent.ask(pm.image("photo.jpg"), "What is this?")')
        answer = self._agent.ask("\n".join(words), given, self.files)
        return Reply(text=answer.text, model=self.model.name, finish_reason=answer.finish,
                     steps=(*answer.steps, *self._invented(answer.text)),
                     seconds={"load": self.model.load_seconds, "generate": time.perf_counter() - begin},
                     media=self._media(answer.made))  # fmt: skip

    def _invented(self, text: str) -> list[Step]:
        """Steps that tell of files which an answer names and which are not there."""
        names = dict.fromkeys(NAMED.findall(text))
        return [Step(tool="answer", arguments=name, error=f"the answer names {name}, which was neither given nor made")
                for name in names if name not in self.files.names]  # fmt: skip

    def _media(self, names: Sequence[str]) -> Mapping[str, list[Any]]:
        """What was made, by kind: PIL images, and the records of sound and video."""
        found: dict[str, list[Any]] = {}
        for name in names:
            kind = name.partition("/")[0]
            item = self.files.open(name, kind)
            found.setdefault(kind, []).append(item.picture if isinstance(item, Image) else item)
        return found


def decoded(item: Media) -> Media:
    """A picture that is damaged is told before a planner is asked."""
    if isinstance(item, Image):
        _ = item.picture
    return item


def agent(
    model: str | Path | Model,
    planner: Any,
    *,
    tools: Any = ("mini",),
    limits: AgentLimits | None = None,
    prompt: str | Path | None = None,
    seed: int = 0,
) -> AgentChat:
    """A conversation with an agent of the catalogue.

    model: its id, or what `pm.load` gave.  planner: the id or folder of a chat model, a loaded one, the address of a
    server with OpenAI's interface ("http://127.0.0.1:8000/v1", its key in POLYMODAL_PLANNER_KEY), a .json file or list
    of texts to be said in order, or a function of messages and stop texts.  tools: ids, folders, loaded models and
    `Tool` records; "kokoro" for speech; plain operations on pictures are there anyway.  prompt: a file with your own
    wording, in the form that the system's page says.  seed: of the names of files. Raises ConfigError for a model that
    is no agent, and what `pm.load` raises.
    """
    from polymodal.api.load import load

    loaded = load(model) if isinstance(model, str | Path) else model
    if not isinstance(loaded.module, AgentModule):
        raise ConfigError(f"{loaded.name} is no agent; it offers {', '.join(loaded.can)}")
    # One model that plans and is a tool as well is loaded once.
    known: dict[str, Any] = {}
    setup = Setup(planner=planner_of(planner, known), tools=toolbox(tools, known), limits=limits or AgentLimits(),
                  prompt="" if prompt is None else prompt_of(prompt))  # fmt: skip
    return AgentChat(loaded, setup, seed)


def prompt_of(path: str | Path) -> str:
    """The text of a prompt file.  Raises ConfigError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as problem:
        raise ConfigError(f"the prompt file {path} cannot be read: {problem}") from problem


def planner_of(value: Any, known: dict[str, Any] | None = None) -> Planner:
    """The planner that somebody means."""
    from polymodal.api.model import Model

    known = {} if known is None else known
    if isinstance(value, Model):
        return LocalPlanner(value)
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return Endpoint(value, key=os.environ.get(KEY, ""))
    if isinstance(value, str | Path) and str(value).endswith(".json"):
        return Scripted(_outputs(Path(value)))
    if isinstance(value, str | Path):
        return LocalPlanner(_model(value, known))
    if isinstance(value, Sequence):
        return Scripted(value)
    if callable(value):
        return value
    raise ConfigError(
        f"planner: expected a model, an address, a list of texts or a function, found {type(value).__name__}"
    )


def _outputs(path: Path) -> list[str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigError(f"the planner's outputs {path} cannot be read: {problem}") from problem
    if not isinstance(found, list):
        raise ConfigError(
            f"{path}: expected a JSON list of texts, a planner's outputs in order; found {type(found).__name__}"
        )
    return found


def _model(name: str | Path, known: dict[str, Any]) -> Any:
    from polymodal.api.load import load

    if str(name) not in known:
        known[str(name)] = load(name)
    return known[str(name)]


def toolbox(given: Any, known: dict[str, Any] | None = None) -> Toolbox:
    """The tools of models and records, and the operations on pictures; reading where Tesseract is installed."""
    known = {} if known is None else known
    items = [given] if isinstance(given, str | Path | Tool) or not isinstance(given, Iterable) else list(given)
    found: list[Tool] = []
    for each in items:
        found += _tools(each, known)
    return Toolbox((*found, *picture_tools(), *reading_tools()))


def _tools(item: Any, known: dict[str, Any]) -> tuple[Tool, ...]:
    from polymodal.api.model import Model

    if isinstance(item, Tool):
        return (item,)
    if isinstance(item, Voice):
        return (voice_tool(item),)
    if item == SPEECH:
        return (voice_tool(voice()),)
    if not isinstance(item, str | Path | Model):
        raise ConfigError(f"tools: expected ids, folders, models and Tool records, found {type(item).__name__}")
    model = item if isinstance(item, Model) else _model(item, known)
    tools = tools_of(model)
    if not tools:
        raise ConfigError(f"{model.name} is no tool for an agent: it offers {', '.join(model.can) or 'nothing'}")
    return tools
