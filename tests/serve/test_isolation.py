"""Decoding in a child: the same numbers, and whatever becomes of the child, one refusal."""

import io
import os
import signal
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from polymodal.data.limits import Limits
from polymodal.data.media import Audio, Image, Video
from polymodal.data.messages import user
from polymodal.errors import MediaError
from polymodal.serve.isolation import Decoders, IsolatedAudio, IsolatedVideo, isolated

SPEECH = Path("examples/speech.flac").read_bytes()


def video() -> bytes:
    """Five grey frames, half a second each."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 32
        for index in range(5):
            pixels = np.full((32, 32, 3), 40 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.fixture(scope="module")
def decoders():
    made = Decoders(children=1, seconds=20)
    yield made
    made.close()


def test_samples_and_frames_are_those_of_this_process(decoders: Decoders) -> None:
    mine, theirs = Audio(SPEECH), IsolatedAudio(SPEECH, decoders=decoders)
    assert np.array_equal(mine.samples(16000), theirs.samples(16000))
    assert mine.content_hash(8000) == theirs.content_hash(8000)
    clip = video()
    ours, child = Video(clip).clip(frames=3), IsolatedVideo(clip, decoders=decoders)
    assert np.array_equal(ours.frames, child.clip(frames=3).frames)
    assert np.array_equal(ours.seconds, child.clip(frames=3).seconds)
    assert child.seconds == Video(clip).seconds
    assert (child.sound is None) == (Video(clip).sound is None)
    assert Video(clip).content_hash(frames=2) == child.content_hash(frames=2)


def test_only_what_strangers_sent_goes_to_the_child(decoders: Decoders) -> None:
    message = user("a", Image(b"x"), Audio(SPEECH), Video(b"y"), Audio((np.zeros(10, np.float32), 16000)))
    kinds = [type(part).__name__ for part in isolated(message, decoders).parts]
    assert kinds == ["Text", "Image", "IsolatedAudio", "IsolatedVideo", "Audio"]


def test_refusals_come_through(decoders: Decoders) -> None:
    with pytest.raises(MediaError, match="empty"):
        IsolatedAudio(b"", decoders=decoders).samples(16000)
    with pytest.raises(MediaError, match="limit"):
        IsolatedAudio(SPEECH, Limits(seconds=0.5), decoders=decoders).samples(16000)
    assert len(IsolatedAudio(SPEECH, decoders=decoders).samples(16000))


@pytest.mark.parametrize("kind", [signal.SIGSEGV, signal.SIGKILL])
def test_a_child_that_dies_is_replaced(decoders: Decoders, kind: int) -> None:
    IsolatedAudio(SPEECH, decoders=decoders).samples(16000)
    child = decoders._free.queue[0]
    os.kill(child.pid, kind)
    child.wait()
    assert len(IsolatedAudio(SPEECH, decoders=decoders).samples(16000))


def test_a_child_that_dies_at_work_or_hangs_costs_its_own_request(decoders: Decoders) -> None:
    slow = Decoders(children=1, seconds=1.5)
    IsolatedAudio(SPEECH, decoders=slow).samples(16000)
    os.kill(slow._free.queue[0].pid, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(MediaError, match=r"takes more than 1.5 s"):
        IsolatedAudio(SPEECH, decoders=slow).samples(16000)
    assert time.monotonic() - begin < 4
    IsolatedAudio(SPEECH, decoders=slow).samples(16000)
    child = slow._free.queue[0]
    os.kill(child.pid, signal.SIGSTOP)
    threading.Timer(0.3, lambda: os.kill(child.pid, signal.SIGKILL)).start()
    with pytest.raises(MediaError, match="makes its decoder fail"):
        IsolatedAudio(SPEECH, decoders=slow).samples(16000)
    assert len(IsolatedAudio(SPEECH, decoders=slow).samples(16000))
    slow.close()


def test_a_child_gets_no_more_memory_than_it_may_take(tmp_path: Path) -> None:
    small = Decoders(children=1, memory=60_000_000)
    minutes = (np.zeros(16000 * 3600, np.float32), 16000)
    soundfile.write(tmp_path / "a.flac", minutes[0], 16000)
    with pytest.raises(MediaError):
        IsolatedAudio((tmp_path / "a.flac").read_bytes(), Limits(samples=10**9), decoders=small).samples(16000)
    assert len(IsolatedAudio(SPEECH, decoders=small).samples(16000))
    small.close()


def test_children_serve_several_threads() -> None:
    pool, found = Decoders(children=2), []
    threads = [
        threading.Thread(target=lambda: found.append(len(IsolatedAudio(SPEECH, decoders=pool).samples(16000))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    assert len(found) == 6 and len(set(found)) == 1
