"""The process that decodes strangers' sound and video, and finds the sounds of their texts.

Started by isolation.py as `-m polymodal.serve.decode_child`.

    stdin   one request: a line of JSON {"what", "size", "limits", ...}, then `size` bytes of media
    stdout  one answer: a line of JSON {"error"} or {"arrays": n, ...}, then n arrays as .npy

The decoders are native code of many authors.  What goes wrong in them ends this process and nothing else: it may take
no more memory than it is given, writes no file, opens none, and starts no other process.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from polymodal.data.audio import read_audio
from polymodal.data.limits import Limits
from polymodal.data.video import read_video, track_kinds, video_seconds
from polymodal.errors import PolymodalError
from polymodal.pipelines.speaking.espeak import ipa


def main() -> None:
    """Answer requests until the other side closes the pipe."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)  # what native libraries print is nobody's business
    _confine(int(sys.argv[1]))
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request.pop("size"))
        try:
            limits = Limits(**request.pop("limits"))
            found, arrays = _answer(request.pop("what"), data, limits, request)
        except PolymodalError as problem:
            found, arrays = {"error": str(problem)}, []
        except MemoryError:
            found, arrays = {"error": "the media need more memory than a request may take"}, []
        _write(answers, found, arrays)


def _confine(memory: int) -> None:
    """Limits for the rest of this process's life; memory: bytes of address space beyond what is mapped now."""
    statm = Path("/proc/self/statm")
    mapped = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0
    for what, limit in (
        (resource.RLIMIT_AS, mapped + memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def _answer(what: str, data: bytes, limits: Limits, given: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    if what == "samples":
        return {}, [read_audio(data, given["rate"], limits)]
    if what == "clip":
        clip = read_video(data, **given, limits=limits)
        return {}, [clip.frames, clip.seconds]
    if what == "ipa":
        return {"ipa": ipa(data.decode("utf-8", "replace"), given["language"])}, []
    if what == "seconds":
        return {"seconds": video_seconds(data, limits)}, []
    return {"kinds": sorted(track_kinds(data, limits))}, []


def _write(answers: BinaryIO, found: dict[str, Any], arrays: list[np.ndarray]) -> None:
    blocks: list[memoryview] = []
    for array in arrays:
        block = io.BytesIO()
        np.save(block, array, allow_pickle=False)
        blocks.append(block.getbuffer())
    answers.write(json.dumps({**found, "sizes": [len(block) for block in blocks]}).encode() + b"\n")
    for each in blocks:
        answers.write(each)
    answers.flush()


if __name__ == "__main__":
    main()
