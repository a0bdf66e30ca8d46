"""What native code does with bytes of strangers happens in child processes: a crash, a hang or a flood there costs one
request.

    isolated(message, decoders) -> the same message; its recordings and videos ask a child for samples and frames
    decoders.ipa(clause, language) -> the sounds of a text (pipelines/speaking/espeak.py)

A child gets bytes and gives arrays; it is started when first needed, used again, and replaced when it dies, answers
nonsense or takes too long.
"""

from __future__ import annotations

import io
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from polymodal.data.kept import DECODED
from polymodal.data.limits import Limits
from polymodal.data.media import Audio, Video
from polymodal.data.messages import Message
from polymodal.data.video import Clip
from polymodal.errors import MediaError

CHILDREN = 2
SECONDS = 60.0  # that decoding one item may take
MEMORY = 2 * 2**30  # bytes of address space that it may take
MAX_ANSWER = 1 << 31


class Decoders:
    """At most `children` processes that decode.  Several threads may use it."""

    def __init__(self, children: int = CHILDREN, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self._seconds, self._memory = seconds, memory
        # None: a child that is not started yet.
        self._free: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
        for _ in range(children):
            self._free.put(None)

    def call(self, what: str, data: bytes, limits: Limits, **given: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
        """A child's answer: values and arrays.  Raises MediaError for what it refuses, and for its death."""
        child = self._free.get()
        try:
            if child is None or child.poll() is not None:
                child = self._start()
            header = {"what": what, "size": len(data), "limits": asdict(limits), **given}
            found, arrays = self._ask(child, json.dumps(header).encode() + b"\n", data)
        except BaseException:
            self._stop(child)
            child = None
            raise
        finally:
            self._free.put(child)
        if "error" in found:
            raise MediaError(str(found["error"]))
        return found, arrays

    def ipa(self, clause: str, language: str) -> str:
        """The sounds of a clause, as pipelines.speaking.espeak.ipa gives them."""
        return str(self.call("ipa", clause.encode(), Limits(), language=language)[0]["ipa"])

    def close(self) -> None:
        """End the children that wait."""
        while not self._free.empty():
            self._stop(self._free.get())

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "polymodal.serve.decode_child", str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _stop(self, child: subprocess.Popen[bytes] | None) -> None:
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def _ask(
        self, child: subprocess.Popen[bytes], header: bytes, data: bytes
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        assert child.stdin is not None and child.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()  # the reads below end with it

        timer = threading.Timer(self._seconds, end)
        timer.start()
        try:
            child.stdin.write(header + data)
            child.stdin.flush()
            found = json.loads(child.stdout.readline(1 << 20))
            sizes = [int(size) for size in found.pop("sizes")]
            if sum(sizes) > MAX_ANSWER:
                raise ValueError("the answer is too large")
            arrays = [np.load(io.BytesIO(child.stdout.read(size)), allow_pickle=False) for size in sizes]
            return found, arrays
        except (OSError, ValueError, KeyError, TypeError, EOFError) as problem:
            why = f"takes more than {self._seconds:g} s" if late.is_set() else "makes its decoder fail"
            kind = "text" if b'"what": "ipa"' in header else "recording or video"
            raise MediaError(f"the {kind} {why}; send it in another format, or less of it") from problem
        finally:
            timer.cancel()


@dataclass(frozen=True, repr=False)
class IsolatedAudio(Audio):
    """A recording whose samples come from a child."""

    decoders: Decoders = field(kw_only=True, compare=False)

    def samples(self, rate: int) -> np.ndarray:
        """As for Audio."""

        def decode() -> np.ndarray:
            return self.decoders.call("samples", self.source, self.limits, rate=rate)[1][0]

        return DECODED.once(self, rate, decode, lambda samples: samples.nbytes)

    def blocks(self, rate: int) -> Iterator[np.ndarray]:
        """As for Audio; strangers' recordings are short enough for one block."""
        yield self.samples(rate)


@dataclass(frozen=True, repr=False)
class IsolatedVideo(Video):
    """A video whose frames come from a child."""

    decoders: Decoders = field(kw_only=True, compare=False)

    def clip(
        self,
        *,
        fps: float | None = None,
        frames: int | None = None,
        times: Sequence[float] | None = None,
        max_side: int | None = None,
    ) -> Clip:
        """As for Video."""
        key = (fps, frames, None if times is None else tuple(times), max_side)
        given = {"fps": fps, "frames": frames, "times": None if times is None else list(times)}

        def decode() -> Clip:
            return Clip(*self.decoders.call("clip", self.source, self.limits, **given, max_side=max_side)[1])

        return DECODED.once(self, key, decode, lambda clip: clip.frames.nbytes)

    @property
    def seconds(self) -> float:  # type: ignore[override]
        """As for Video."""
        return float(self.decoders.call("seconds", self.source, self.limits)[0]["seconds"])

    @property
    def sound(self) -> Audio | None:  # type: ignore[override]
        """As for Video."""
        kinds = self.decoders.call("kinds", self.source, self.limits)[0]["kinds"]
        return IsolatedAudio(self.source, self.limits, decoders=self.decoders) if "audio" in kinds else None


def isolated(message: Message, decoders: Decoders) -> Message:
    """The message with its recordings and videos decoded in children; other parts as they are."""
    return replace(message, parts=tuple(_part(part, decoders) for part in message.parts))


def _part(part: Any, decoders: Decoders) -> Any:
    if isinstance(part, Audio) and isinstance(part.source, bytes):
        return IsolatedAudio(part.source, part.limits, modality=part.modality, decoders=decoders)
    if isinstance(part, Video) and isinstance(part.source, bytes):
        return IsolatedVideo(part.source, part.limits, modality=part.modality, decoders=decoders)
    return part
