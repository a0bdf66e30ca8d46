"""Reading lines that a person types, with editing, history and completion where Python has readline; and Ctrl-C,
there and in work that ends at a good place.

Lines that come through a pipe are read as they are, nothing is added to the history, and Ctrl-C ends the program.
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, ModuleType

from polymodal.printable import one_line

LONGEST_HISTORY = 1000
PROMPT, GOES_ON = "> ", ". "
BLOCK = '"""'
ENDS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what a cluster sends before it takes the machine


def interactive() -> bool:
    """Whether lines are typed at a terminal."""
    return sys.stdin.isatty()


class Interrupts:
    """Ctrl-C while lines are typed at a terminal: KeyboardInterrupt inside `allowed`, and nothing elsewhere.

    So a second press, while the first is still being dealt with, does not end the program.  A press between a line and
    what it starts counts when that starts.
    """

    def __init__(self) -> None:
        self._allowed = self._early = False
        if interactive():
            signal.signal(signal.SIGINT, self._pressed)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if self._allowed:
            raise KeyboardInterrupt
        self._early = True

    def forget(self) -> None:
        """Nothing that was pressed until now counts."""
        self._early = False

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """What may be interrupted."""
        self._allowed = True
        try:
            if self._early:
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = self._early = False


def read_line(interrupts: Interrupts) -> str | None:
    """The next entry that is not empty, or None at the end of the input; Ctrl-C drops what was typed so far.

    An entry goes on in the next line where its line ends with a backslash, and until BLOCK where it begins with BLOCK.
    """
    lines: list[str] = []
    while True:
        interrupts.forget()
        try:
            with interrupts.allowed():
                lines.append(input(prompt(GOES_ON if lines else PROMPT)))
        except EOFError:
            return entry_of(lines) or None
        except KeyboardInterrupt:
            if not interactive():
                raise
            print("\n(dropped)" if lines else "\n(Ctrl-D or /quit ends the conversation)", file=sys.stderr)
            lines = []
            continue
        if goes_on(lines):
            continue
        if entry := entry_of(lines):
            return entry
        lines = []


def goes_on(lines: Sequence[str]) -> bool:
    """Whether the entry that these lines begin is not at its end."""
    first, last = lines[0].lstrip(), lines[-1].rstrip()
    if first.startswith(BLOCK):
        return not (last.endswith(BLOCK) and (len(lines) > 1 or len(first.rstrip()) >= 2 * len(BLOCK)))
    return last.endswith("\\")


def entry_of(lines: Sequence[str]) -> str:
    """What was typed, without the marks that hold its lines together."""
    text = "\n".join(lines).strip()
    if text.startswith(BLOCK):
        return text.removeprefix(BLOCK).removesuffix(BLOCK).strip()
    return "\n".join(line.rstrip().removesuffix("\\") for line in lines).strip()


def prompt(sign: str) -> str:
    """What `input` shows; on stderr instead where stdout is not the terminal, as in `chat --json > answers`."""
    if not interactive():
        return ""
    if sys.stdout.isatty():
        return sign
    print(sign, end="", file=sys.stderr, flush=True)
    return ""


@contextlib.contextmanager
def line_editing(history: Path, commands: Sequence[str]) -> Iterator[None]:
    """Editing, history from a file and completion of commands and paths, while lines are typed at a terminal."""
    try:
        import readline
    except ImportError:  # Windows, and Pythons that were built without it
        yield
        return
    if not (interactive() and sys.stdout.isatty()):
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(LONGEST_HISTORY)
    readline.set_completer_delims(" \t\n")
    readline.set_completer(completer(readline, commands))
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        with contextlib.suppress(OSError):  # a history that cannot be kept is no reason to complain at the end
            history.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(history, os.O_CREAT | os.O_WRONLY, 0o600))  # what was asked is for this user alone
            readline.write_history_file(history)


def completer(readline: ModuleType, commands: Sequence[str]) -> Callable[[str, int], str | None]:
    """What readline asks for the n-th completion of a word: commands at the start of a line, paths anywhere."""

    def complete(word: str, number: int) -> str | None:
        found = [f"/{name}" for name in commands if f"/{name}".startswith(word)] if readline.get_begidx() == 0 else []
        for name in sorted(glob.glob(glob.escape(os.path.expanduser(word)) + "*")):
            found.append(name + os.sep if os.path.isdir(name) else name)
        found = [name for name in found if one_line(name) == name]  # readline would print others as they are
        return found[number] if number < len(found) else None

    return complete


@contextlib.contextmanager
def ends_after_the_step() -> Iterator[Callable[[], bool]]:
    """Yields stop(): whether one of these signals came.  The second time it ends at once."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        restore()

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.signal(each, note) for each in ENDS}
    try:
        yield lambda: bool(came)
    finally:
        restore()
