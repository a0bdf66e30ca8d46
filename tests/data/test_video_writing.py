"""Films as .mp4: pictures and sound come back, odd sides, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from polymodal.data.media import Audio, Video
from polymodal.data.video_writing import Film
from polymodal.errors import ConfigError


def frames(count: int, height: int, width: int) -> np.ndarray:
    """Grey frames, each brighter than the one before."""
    made = np.zeros((count, height, width, 3), np.uint8)
    return made + (np.arange(count, dtype=np.uint8) * 40)[:, None, None, None]


def test_a_film_comes_back_with_its_sound() -> None:
    tone = 0.5 * np.sin(np.arange(32_000) * 2 * np.pi * 440 / 16_000).astype(np.float32)
    film = Film(frames=frames(4, 33, 48), fps=4.0, sound=Audio((tone, 16_000)))
    video = Video(film.mp4())
    seen = video.clip(fps=4.0).frames
    assert seen.shape[1:] == (32, 48, 3) and film.seconds == 1.0
    assert all(abs(int(seen[index].mean()) - 40 * index) < 12 for index in range(4))
    assert len(seen) == 8 and abs(int(seen[7].mean()) - 120) < 12  # the last frame stays while the sound goes on
    assert video.sound is not None
    heard = video.sound.samples(16_000)
    assert abs(len(heard) - 32_000) < 3000 and 0.2 < float(np.abs(heard[8000:16000]).max()) < 0.8


def test_a_film_without_sound() -> None:
    video = Video(Film(frames=frames(3, 16, 16), fps=2.5).mp4())
    assert video.sound is None and len(video.frame_times) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": frames(2, 4, 4).astype(np.float32)},
        {"frames": frames(2, 4, 4)[..., :2]},
        {"frames": frames(2, 4, 4)[:0]},
        {"fps": 0.0},
    ],
)
def test_what_is_no_film_is_refused(wrong) -> None:
    with pytest.raises(ConfigError, match="expected frames uint8"):
        Film(**{"frames": frames(1, 4, 4), "fps": 1.0, **wrong})


def test_a_film_too_small_for_a_file() -> None:
    with pytest.raises(ConfigError, match="2 pixels at least"):
        Film(frames=frames(1, 1, 4), fps=1.0).mp4()
