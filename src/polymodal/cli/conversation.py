"""A conversation at the terminal: its commands, its files, its turns.

    line -> /command, or a question -> pieces of the answer, or its JSON line -> history of the conversation
Notes to the person (what a command did, that an answer was stopped) go to stderr: stdout holds answers alone.
"""

from __future__ import annotations

import json as json_module
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from polymodal.cli.answer import as_dict, stopped_at
from polymodal.printable import one_line

if TYPE_CHECKING:
    from polymodal.cli.terminal import Interrupts

HELP = """\
Type a question, or one of these:
  /file PATH...   send files with your next question; so does a line that is the path of a file, typed or dropped here
  /system TEXT    set the system message; without a text there is none
  /undo           take the last question and its answer back
  /new            begin a new conversation (the system message stays)
  /save FILE      write the conversation: as messages to X.json, as text to any other name
  /help           this list
  /quit           end the conversation, as Ctrl-D does
A line that ends with a backslash goes on in the next one; so does everything between \"\"\" and \"\"\".
Ctrl-C stops an answer."""


class Conversation:
    """What was said so far, and the files that go with the next question."""

    def __init__(self, loaded: Any, sampling: dict[str, Any], json: bool, interrupts: Interrupts) -> None:
        self.loaded, self.sampling, self.json, self.interrupts = loaded, sampling, json, interrupts
        self.system = ""
        self.turns: list[dict[str, Any]] = []
        self.waiting: list[tuple[str, Any]] = []  # name, media
        self.shown: list[list[str]] = []  # the names of the files of each question
        self.ended = False
        self.commands: dict[str, Callable[[str], None]] = {
            "file": self.add_files,
            "system": self.set_system,
            "undo": self.undo,
            "new": self.begin,
            "save": self.save,
            "help": self.help,
            "quit": self.end,
        }

    def take(self, line: str) -> None:
        """Do what a line says: a command, a dropped file, or a question."""
        from polymodal.systems import unknown

        name, _, rest = line[1:].partition(" ")
        if line.startswith("/") and name in self.commands:
            with self.interrupts.allowed():
                self.commands[name](rest.strip())
        elif is_dropped_file(line):
            with self.interrupts.allowed():
                self.add_files(line)
        elif line.startswith("/"):
            raise unknown("command", name, self.commands)
        else:
            self.ask(line)

    def ask(self, question: str) -> None:
        """Answer a question; Ctrl-C keeps the part of the answer that was written until then."""
        from polymodal.cli import terminal
        from polymodal.cli.output import print_json

        waiting, self.waiting = self.waiting, []  # a file that fails goes with its turn, or every later turn would fail
        message = {"role": "user", "content": [*(item for _, item in waiting), question]}
        written = ""
        try:
            with self.interrupts.allowed():
                stream = self.loaded.stream([*self.messages(), message], **self.sampling)
                for piece in stream:
                    written += piece
                    if not self.json:
                        print(piece, end="", flush=True)
        except KeyboardInterrupt:
            if not terminal.interactive():
                raise
            self.stopped(message, waiting, written)
            return
        if self.json:
            print_json(as_dict(stream.reply), lines=True)
        else:
            print(flush=True)
            if stopped := stopped_at(stream.reply):
                note(stopped)
        self.remember(message, waiting, stream.reply.text)

    def stopped(self, message: dict[str, Any], waiting: list[tuple[str, Any]], written: str) -> None:
        """After Ctrl-C: what was written is the answer; a question without a word of answer was not asked."""
        if written.strip():
            note("\n(stopped)")
            self.remember(message, waiting, written)
        else:
            note("\n(stopped before the first word; the question is forgotten)")
            self.waiting = waiting

    def remember(self, message: dict[str, Any], waiting: list[tuple[str, Any]], answer: str) -> None:
        """Add a question and its answer to the conversation."""
        self.turns += [message, {"role": "assistant", "content": answer}]
        self.shown.append([name for name, _ in waiting])

    def messages(self) -> list[dict[str, Any]]:
        """The system message, if there is one, and all turns."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def add_files(self, rest: str) -> None:
        """Open files and keep them for the next question; those the model cannot take are refused at once."""
        from polymodal.cli.inputs import expand
        from polymodal.errors import PromptError

        paths = split_paths(rest)
        if not paths:
            raise PromptError("/file needs a path, as in: /file photo.jpg")
        for each in expand(paths):
            item = each.open()
            self.loaded.require_input(item)
            self.waiting.append((each.name, item))
            note(f"{one_line(each.name)}: {describe(item)}; it goes with your next question")

    def set_system(self, text: str) -> None:
        """Set or remove the system message; refused when the model's prompt has no place for one."""
        if text:
            # A dry run of the prompt: a chat format without a system role says so now, not at the next question.
            messages = [{"role": "system", "content": text}, {"role": "user", "content": "?"}]
            self.loaded.processor(messages, generate=True)
        self.system = text
        note("the system message is set" if text else "there is no system message now")

    def undo(self, rest: str) -> None:
        """Forget the last question and its answer."""
        if not self.turns:
            note("there is nothing to undo")
            return
        question = self.turns[-2]["content"][-1]
        del self.turns[-2:], self.shown[-1]
        note(f"took back: {question}")

    def begin(self, rest: str) -> None:
        """Forget all turns and waiting files."""
        self.turns, self.shown, self.waiting = [], [], []
        note("a new conversation")

    def save(self, rest: str) -> None:
        """Write the conversation to a file."""
        from polymodal.cli.inputs import expanded
        from polymodal.cli.output import counted, write_text
        from polymodal.errors import PromptError

        paths = split_paths(rest)
        if len(paths) != 1:
            raise PromptError("/save needs one file name, as in: /save talk.json")
        path = expanded(paths[0])
        write_text(path, self.as_json() if path.suffix == ".json" else self.as_words())
        count = len(self.turns) // 2
        answers = "its answer" if count == 1 else "their answers"
        note(f"wrote {one_line(str(path))}: {counted(count, 'question')} and {answers}")

    def as_json(self) -> str:
        """OpenAI-style messages; files by their names."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer, names in self.exchanges():
            messages += [{"role": "user", "content": question} | ({"files": names} if names else {}),
                         {"role": "assistant", "content": answer}]  # fmt: skip
        return json_module.dumps(messages, ensure_ascii=False, indent=2) + "\n"

    def as_words(self) -> str:
        """The conversation as one reads it on the screen."""
        lines = [f"system: {self.system}\n"] if self.system else []
        for question, answer, names in self.exchanges():
            lines += [*(f"[{one_line(name)}]" for name in names), f"> {question}", answer, ""]
        return "\n".join(lines)

    def exchanges(self) -> list[tuple[str, str, list[str]]]:
        """Each question with its answer and the names of its files."""
        asked, answered = self.turns[::2], self.turns[1::2]
        return [
            (question["content"][-1], answer["content"], names)
            for question, answer, names in zip(asked, answered, self.shown, strict=True)
        ]

    def help(self, rest: str) -> None:
        """The commands that this conversation has."""
        note("\n".join(line for line in HELP.splitlines() if self.has(line)))

    def has(self, line: str) -> bool:
        """Whether a line of the help is about a command that there is, or about none."""
        return not line.startswith("  /") or line[3:].split()[0] in self.commands

    def end(self, rest: str) -> None:
        """End the conversation."""
        self.ended = True


def note(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def split_paths(text: str) -> list[str]:
    """Paths as people type and terminals paste them: bare, quoted, with escaped spaces, one or several."""
    from polymodal.cli.inputs import exists, expanded

    text = text.strip()
    if exists(expanded(text)) and text:
        return [text]
    try:
        return shlex.split(text)
    except ValueError:  # an apostrophe in the name, not a quote
        return [text]


def is_dropped_file(line: str) -> bool:
    """Whether a line is nothing but the path of a file: absolute, as a terminal pastes what is dropped on it, or from
    the working directory with an ending, so that the question "Why" stays one beside a file of that name."""
    from polymodal.cli.inputs import exists, expanded

    paths = split_paths(line)
    if len(paths) != 1:
        return False
    path = expanded(paths[0])
    if paths[0].startswith("file://"):
        return True
    return exists(path) and (paths[0].startswith(("/", "~")) or (path.suffix != "" and path.is_file()))


def describe(item: Any) -> str:
    """What a file holds, in a few words."""
    from polymodal.data.media import Array, Audio, Image, Text, Video

    if isinstance(item, Image):
        return f"a picture of {item.picture.width} x {item.picture.height} pixels"
    if isinstance(item, Text):
        return f"a text of {len(item.text):,} characters"
    kinds = {Audio: "a recording", Video: "a video", Array: "an array"}
    return next((words for kind, words in kinds.items() if isinstance(item, kind)), item.modality)
