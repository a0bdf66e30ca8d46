"""`polymodal chat` as a person uses it: at a pseudo-terminal, with keys, Ctrl-C and dropped files."""

import io
import json
import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest

TINY = str(Path(__file__).with_name("tiny_system.py"))
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\r")
LONG = 4000
"""More tokens than fit before Ctrl-C comes; sampled, since a loop would be cut, with a seed that does not end early."""


class Terminal:
    """A `polymodal chat` behind a pseudo-terminal: what it has shown, and keys that are sent to it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environment = os.environ | {
            "POLYMODAL_HOME": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "TERM": "xterm",
            "COLUMNS": "200",
        }
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            command = [sys.executable, "-m", "polymodal", "chat", TINY, *arguments]
            os.execve(sys.executable, command, environment)
        self.shown = b""
        self.wait_for("> ")

    def wait_for(self, sign: str, seconds: float = 60) -> str:
        """Everything shown up to `sign`, which is then forgotten."""
        end = time.monotonic() + seconds
        while sign.encode() not in self.shown:
            assert time.monotonic() < end, f"{sign!r} did not appear in {self.shown!r}"
            if select.select([self.file], [], [], 0.2)[0]:
                try:
                    self.shown += CONTROL.sub(b"", os.read(self.file, 4096))
                except OSError as error:  # the program has ended
                    raise AssertionError(f"{sign!r} did not appear in {self.shown!r}") from error
        seen, _, self.shown = self.shown.partition(sign.encode())
        return seen.decode()

    def wait_for_more(self) -> None:
        """Until anything more has been shown."""
        while not self.shown:
            assert select.select([self.file], [], [], 60)[0], "nothing more was shown"
            self.shown += CONTROL.sub(b"", os.read(self.file, 4096))

    def type(self, keys: str) -> None:
        os.write(self.file, keys.encode())

    def say(self, line: str) -> str:
        """A line and what it brings, up to the next prompt."""
        self.type(line + "\n")
        self.wait_for(line)
        return self.wait_for("\n> ")

    def interrupt(self, sign: str) -> None:
        """Ctrl-C until `sign` appears: one that comes just before readline waits is noticed with the next key only."""
        for _ in range(20):
            self.type("\x03")
            try:
                self.wait_for(sign, seconds=1)
                return
            except AssertionError:
                continue
        raise AssertionError(f"{sign!r} did not appear in {self.shown!r}")

    def end(self) -> int:
        """The exit code."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if select.select([self.file], [], [], 0.1)[0]:
                try:
                    os.read(self.file, 4096)
                except OSError:
                    break
        os.close(self.file)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(tmp_path, *arguments))
        return opened[-1]

    yield start
    for each in opened:
        try:
            os.kill(each.pid, signal.SIGKILL)
            os.waitpid(each.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


def test_ctrl_c_stops_the_answer_and_not_the_conversation(terminal, tmp_path):
    chat = terminal("--max-tokens", str(LONG), "--temperature", "2", "--seed", "2")
    chat.type("tell me a story\n")
    chat.wait_for("tell me a story\n")
    chat.wait_for_more()  # the answer has begun; before that, Ctrl-C may still meet the prompt
    chat.interrupt("(stopped")
    chat.wait_for("> ")
    chat.type("half a line")
    chat.wait_for("half a line")
    chat.interrupt("/quit ends the conversation")  # at the prompt it drops the line
    chat.wait_for("> ")
    assert "wrote" in chat.say(f"/save {tmp_path}/talk.json")
    chat.type("/quit\n")
    assert chat.end() == 0
    talk = json.loads((tmp_path / "talk.json").read_text())
    assert [each["role"] for each in talk] in ([], ["user", "assistant"])


def test_history_is_kept_and_editing_works(terminal, tmp_path):
    first = terminal("--max-tokens", "1")
    first.say("hello")
    first.type("\x04")
    assert first.end() == 0
    history = tmp_path / "cache" / "chat_history"
    assert "hello" in history.read_text().splitlines() and history.stat().st_mode & 0o077 == 0
    second = terminal("--max-tokens", "1")
    second.type("\x1b[A")  # up: the line of the last conversation
    second.wait_for("hello")
    second.type("\x7f\x7fp!\n")  # and change its end
    second.wait_for("\n> ")
    second.type("/quit\n")
    assert second.end() == 0
    assert "help!" in history.read_text().splitlines()


def test_dropped_and_quoted_files(terminal, tmp_path, photo):
    odd = tmp_path / "it's a photo [1].jpg"
    odd.write_bytes(photo.read_bytes())
    quoted = "'" + str(odd).replace("'", "'\\''") + "'"
    escaped = re.sub(r"([ '\[\]])", r"\\\1", str(odd))
    near = os.path.relpath(photo)  # typed, from the working directory
    chat = terminal("--max-tokens", "1")
    for line in (
        f"/file {photo}",
        f"/file {quoted}",
        quoted,
        escaped,
        f"file://{photo}",
        f"/file {odd}",
        str(photo),
        near,
    ):
        assert "a picture of 60 x 40 pixels; it goes with your next question" in chat.say(line), line
    chat.type("/quit\n")
    assert chat.end() == 0


def test_a_question_of_several_lines(terminal, tmp_path):
    chat = terminal("--max-tokens", "4")
    chat.type("Name an animal\\\n")
    chat.wait_for("\n. ")
    chat.say("that barks.")
    chat.type('"""Two\n')
    chat.wait_for("\n. ")
    chat.type("\n")
    chat.wait_for("\n. ")
    chat.say('lines"""')
    chat.say('"""one line"""')
    chat.type("lost\\\n")
    chat.wait_for("\n. ")
    chat.interrupt("(dropped)")
    chat.wait_for("> ")
    chat.say(f"/save {tmp_path / 'talk.json'}")
    chat.type("\x04")
    assert chat.end() == 0
    asked = [each["content"] for each in json.loads((tmp_path / "talk.json").read_text()) if each["role"] == "user"]
    assert asked == ["Name an animal\nthat barks.", "Two\n\nlines", "one line"]


def test_lines_through_a_pipe_go_on_too(polymodal, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f'a\\\nb\n"""\nc\n\nd\n"""\n/save {tmp_path / "t.json"}\nlast\\'))
    assert polymodal("chat", tiny, "--max-tokens", "3").code == 0
    saved = json.loads((tmp_path / "t.json").read_text())
    assert [each["content"] for each in saved if each["role"] == "user"] == ["a\nb", "c\n\nd"]
