"""`chat` with an agent: each question is a request to its planner, with the files that it made before.

polymodal chat visual-chatgpt --planner http://127.0.0.1:8000/v1 --tool mini
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polymodal.cli.agent import Agency, tell, write
from polymodal.cli.conversation import Conversation, note

if TYPE_CHECKING:
    from polymodal.cli.terminal import Interrupts


class AgentConversation(Conversation):
    """Turns with an agent.  What tools make is written to the folder of `agency` after each turn."""

    def __init__(self, loaded: Any, agency: Agency, json: bool, interrupts: Interrupts) -> None:
        super().__init__(loaded, {}, json, interrupts)
        self.agency, self.agent = agency, agency.begin(loaded)
        self.written: set[str] = set()
        for name in ("system", "undo"):  # the agent has a prompt of its own, and what a tool did stays done
            del self.commands[name]

    def ask(self, question: str) -> None:
        """Ctrl-C gives the request up; the steps until then are not kept."""
        from polymodal.cli import terminal

        waiting, self.waiting = self.waiting, []
        try:
            with self.interrupts.allowed():
                reply = self.agent.ask(*(item for _, item in waiting), question)
        except KeyboardInterrupt:
            if not terminal.interactive():
                raise
            note("\n(stopped; the request is forgotten)")
            self.waiting = waiting
            return
        made = [name for name in self.agent.files.made if name not in self.written]
        tell(reply, [write(self.agent.files, name, self.agency.folder) for name in made], json=self.json, lines=True)
        self.written.update(made)
        content = [*(item for _, item in waiting), question]
        self.remember({"role": "user", "content": content}, waiting, reply.text)

    def begin(self, rest: str) -> None:
        """A new agent, which knows of no file."""
        super().begin(rest)
        self.agent, self.written = self.agency.begin(self.loaded), set()
