"""A user's own system that hears a recording window by window, ten seconds each; the file that is named by LONG_FAULT
goes wrong behind the second window, "interrupt", as Ctrl-C does, or "damage"; or nobody speaks in it, "silence"."""

import dataclasses
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import tiny_system

from polymodal.errors import MediaError
from polymodal.pipelines.transcription.transcribe import Segment, Window

WORDS = (" One two three.", "", " Four five.", " Six.")


def windows(recording):
    for index, words in enumerate(WORDS):
        name, _, fault = os.environ.get("LONG_FAULT", "").partition(":")
        named = bool(name) and Path(str(recording.source)).name == name
        words = "" if named and fault == "silence" else words
        if index == 3 and named and fault != "silence":
            raise KeyboardInterrupt if fault == "interrupt" else MediaError("it is damaged from here on")
        begin = 10.0 * index
        segments = (Segment(start=begin + 0.5, end=begin + 9.25, text=words.strip()),) if words else ()
        yield Window(text=words, segments=segments, until=begin + 10, seconds=40.0)


def load(variant, options):
    return dataclasses.replace(tiny_system.load(variant, options), transcribe_windows=windows)


SYSTEM = dataclasses.replace(tiny_system.SYSTEM, id="long", load=load)
