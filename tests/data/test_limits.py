"""Limits: what a user may raise for files of one's own, and what stays for everybody else's."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow

import polymodal as pm
from polymodal.data.limits import DEFAULT_LIMITS, Limits, own_limits
from polymodal.data.messages import conversation
from polymodal.errors import ConfigError, MediaError


def test_the_environment_changes_the_limits_of_files_one_names(monkeypatch, tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.zeros(16_000), 8000)
    monkeypatch.setenv("POLYMODAL_LIMITS", "seconds=1, bytes=1e9")
    assert own_limits() == Limits(seconds=1, bytes=10**9) and isinstance(own_limits().bytes, int)
    for record in (pm.audio(path), pm.media(path), pm.video(path), pm.image(path), pm.array([1.0])):
        assert record.limits == own_limits()
    with pytest.raises(
        MediaError, match=r"is 2\.0 s long, the limit is 1 s .*POLYMODAL_LIMITS=seconds=2, or limits=pm"
    ):
        pm.audio(path).samples(8000)
    assert len(pm.audio(path, limits=pm.Limits(seconds=2)).samples(8000)) == 16_000
    monkeypatch.delenv("POLYMODAL_LIMITS")
    assert pm.audio(path).limits == DEFAULT_LIMITS


def test_media_in_messages_keep_the_defaults(monkeypatch):
    monkeypatch.setenv("POLYMODAL_LIMITS", "source_pixels=1e12")
    buffer = io.BytesIO()
    Pillow.new("L", (3, 3)).save(buffer, "PNG")
    (message,) = conversation([{"role": "user", "content": [{"type": "image", "image": buffer.getvalue()}]}])
    assert message.media[0].limits == DEFAULT_LIMITS


@pytest.mark.parametrize("text", ["seconds", "seconds=", "second=9", "seconds=many", "seconds=-1", "bytes=inf"])
def test_wrong_words_in_the_environment(monkeypatch, text):
    monkeypatch.setenv("POLYMODAL_LIMITS", text)
    with pytest.raises(ConfigError):
        pm.image("a.jpg")


def test_a_film_of_hours_in_six_channels_is_read_and_silence_of_an_hour_in_eight_is_not() -> None:
    from polymodal.data.audio import Spent

    samples = 48_000 * 3 * 3600
    Spent("film.mkv", Limits(), size=48_000 * 3 * 3600).claim(48_000, 6, samples)  # AC-3 at 384 kbit/s
    with pytest.raises(MediaError, match=r"Limits\.decoded_samples"):
        Spent("silence.flac", Limits(), size=1_400_000).claim(48_000, 8, 48_000 * 3600)
