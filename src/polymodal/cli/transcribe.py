"""`transcribe`: the words of recordings, those of each window as soon as it is heard; an interrupt keeps what is there.

one recording       a line for each window of 30 s at most
several             a line for each recording, which grows
--segments          a line for each segment, with its times
--json, --jsonl     one document at the end, a line for each recording; with --segments a line for each segment
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL, Load, loads_a_model
from polymodal.cli.perceive import FILES_HELP, JSONL

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help=FILES_HELP, show_default=False)]
SEGMENTS = Annotated[
    bool, typer.Option("--segments", help="Print a line for each stretch of speech, with its times; JSON with --jsonl.")
]
Show = Callable[[str, Iterable[Any]], None]
"""(name of a recording, its windows as they come): prints them"""


@loads_a_model
def transcribe(
    files: Files,
    model: MODEL = "mini",
    segments: SEGMENTS = False,
    json: JSON = False,
    jsonl: JSONL = False,
    *,
    load: Load,
) -> None:
    """Transcribe speech: the words of recordings, or of a video's sound, as they are heard."""
    from polymodal.cli.inputs import expand, open_all
    from polymodal.cli.many import report, results
    from polymodal.cli.output import progress

    inputs = expand(files, sound=True)
    if len(inputs) == 1:
        require_sound(open_all(inputs)[0], inputs[0].name)  # a picture costs a moment, not the time to load a model
    loaded = load(model)
    show = way_of(len(inputs) > 1, segments, json, jsonl)
    with progress("transcribing", len(inputs)) as step:
        listening = Listening(loaded, show, step)
        report(
            results(inputs, listening.run, step=listening.begin),
            as_dict=lambda reply: None if show is print_segment_rows else as_dict(reply),
            as_words=lambda name, reply: None,
            several=True,
            json=json,
            lines=jsonl,
        )


def require_sound(item: Any, name: str) -> None:
    """Raises PromptError for what is neither a recording nor a video with sound."""
    from polymodal.cli.conversation import describe
    from polymodal.data.media import Audio, Video
    from polymodal.errors import PromptError

    if not isinstance(item.sound if isinstance(item, Video) else item, Audio):
        raise PromptError(f"{name} has no sound to transcribe; it is {describe(item)}")


class Listening:
    """Transcribes recordings one by one; says on stderr which, and how much of it is done."""

    def __init__(self, loaded: Any, show: Show, step: Callable[[int, str], None]) -> None:
        self.loaded, self.show, self.step = loaded, show, step
        self.done, self.name = 0, ""

    def begin(self, done: int, name: str) -> None:
        """Called before each recording."""
        self.done, self.name = done, name
        self.step(done, name)

    def run(self, media: list[Any]) -> list[Any]:
        """The finished reply for each, printed by then."""
        return list(map(self.hear, media))

    def hear(self, recording: Any) -> Any:
        stream = self.loaded.transcribe_stream(recording)
        self.show(self.name, self.windows(stream))
        if not stream.reply.text.strip():
            print(f"({self.name}: no speech was heard)", file=sys.stderr)  # stdout holds the words alone
        return stream.reply

    def windows(self, stream: Any) -> Iterator[Any]:
        for window in stream.windows():
            self.step(self.done, f"{clock(window.until)} of {clock(window.seconds)}, {self.name}")
            yield window


def way_of(several: bool, segments: bool, json: bool, jsonl: bool) -> Show:
    """How windows are printed."""
    if json or jsonl:
        return print_segment_rows if segments and jsonl else wait
    if segments:
        return partial(print_segments, several=several)
    return print_words if several else print_windows


def print_windows(name: str, windows: Iterable[Any]) -> None:
    """A line for each window in which something was said."""
    for window in windows:
        if words := window.text.strip():
            print(words, flush=True)


def print_words(name: str, windows: Iterable[Any]) -> None:
    """One line with the name and all words, which grows, and is ended whatever happens."""
    begun = spoken = False
    try:
        for window in windows:
            words = window.text if spoken else window.text.lstrip()
            sys.stdout.write(words if begun else f"{name}: {words}")
            sys.stdout.flush()
            begun, spoken = True, spoken or bool(words)
    finally:
        if begun:
            print(flush=True)


def print_segments(name: str, windows: Iterable[Any], several: bool) -> None:
    """A line for each segment."""
    for window in windows:
        for each in window.segments:
            times = f"[{clock(each.start, 2)} --> {clock(each.end, 2)}]"
            print(f"{name}: {times} {each.text}" if several else f"{times} {each.text}", flush=True)


def print_segment_rows(name: str, windows: Iterable[Any]) -> None:
    """A line of JSON for each segment."""
    from polymodal.cli.output import print_json

    for window in windows:
        for each in window.segments:
            print_json({"file": name, **segment_as_dict(each)}, lines=True)


def wait(name: str, windows: Iterable[Any]) -> None:
    """Nothing is printed before the end."""
    for _ in windows:
        pass


def as_dict(reply: Any) -> dict[str, Any]:
    """The stable keys of a transcript in JSON."""
    segments = list(map(segment_as_dict, reply.segments))
    return {"text": reply.text, "model": reply.model, "seconds": reply.seconds, "segments": segments}


def segment_as_dict(segment: Any) -> dict[str, Any]:
    """The stable keys of a segment; times in seconds of the recording."""
    return {"start": round(segment.start, 2), "end": round(segment.end, 2), "text": segment.text}


def clock(seconds: float, digits: int = 0) -> str:
    """3661.5 -> "1:01:01"; minutes and seconds below an hour; with `digits` of the second."""
    whole = round(seconds * 10**digits)
    minutes, rest = divmod(whole, 60 * 10**digits)
    hours, minutes = divmod(minutes, 60)
    shown = f"{rest / 10**digits:0{3 + digits if digits else 2}.{digits}f}"
    return f"{hours}:{minutes:02}:{shown}" if hours else f"{minutes}:{shown}"
