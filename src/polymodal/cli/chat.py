"""`chat`: a conversation with a model about files, turn after turn; with an agent, through whoever plans for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polymodal.cli.agent import OPTIONS as AGENT
from polymodal.cli.agent import Agency, require_planner
from polymodal.cli.answer import samples
from polymodal.cli.catalogue import JSON
from polymodal.cli.conversation import Conversation, note
from polymodal.cli.model import MODEL_HELP, Load, loads_a_model, with_options
from polymodal.printable import one_line

if TYPE_CHECKING:
    from polymodal.cli.terminal import Interrupts


def takes_a_planner(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of agents to a command, which gets them as `agency`."""
    return with_options(command, "agency", AGENT, Agency.of)


@loads_a_model
@samples(max_tokens=256)
@takes_a_planner
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)] = "mini",
    json: JSON = False,
    *,
    sampling: dict[str, Any],
    agency: Agency | None,
    load: Load,
) -> None:
    """Chat with a model: type questions, /file PATH sends a picture or recording, /help lists the commands."""
    from polymodal.cli import terminal
    from polymodal.errors import PolymodalError

    loaded = load(model)
    interrupts = terminal.Interrupts()
    conversation = begin(loaded, agency, sampling, json, interrupts)
    if terminal.interactive():
        note(f"{loaded.name} reads {', '.join(loaded.system.inputs)}. /help lists the commands.")
    with terminal.line_editing(history_file(), list(conversation.commands)):
        while not conversation.ended and (line := terminal.read_line(interrupts)) is not None:
            try:
                conversation.take(line)
            except PolymodalError as problem:
                # A wrong file or a full context costs this turn, not the conversation.
                note(f"polymodal: {one_line(str(problem))}")
            except KeyboardInterrupt:
                if not terminal.interactive():
                    raise
                note("\n(interrupted)")


def begin(
    loaded: Any, agency: Agency | None, sampling: dict[str, Any], json: bool, interrupts: Interrupts
) -> Conversation:
    """Raises ConfigError for an agent that nobody plans for, and for a model that does not chat."""
    if agency is None:
        require_planner(loaded)
        loaded.require("chat")
        return Conversation(loaded, sampling, json, interrupts)
    from polymodal.cli.agent_chat import AgentConversation

    return AgentConversation(loaded, agency, json, interrupts)


def history_file() -> Path:
    """Where the lines that were typed are kept, in the cache folder."""
    from polymodal.weights.cache import home

    return home() / "chat_history"
