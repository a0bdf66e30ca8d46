"""ImageBind's inputs: filter banks against torchaudio's Kaldi code (check/fixtures), the rest by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from polymodal.check.fixture import read
from polymodal.check.randomise import values
from polymodal.data import imagebind_inputs
from polymodal.data.kaldi import fbank
from polymodal.data.media import Audio
from polymodal.errors import MediaError

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


def test_filter_banks_equal_kaldis() -> None:
    samples = torch.cumsum(values("samples", (6000,)) * 0.1, 0) * 0.05
    torch.testing.assert_close(fbank(samples), read("kaldi_fbank")[1]["fbank"], atol=1e-4, rtol=0)
    with pytest.raises(MediaError, match="at least 400"):
        fbank(samples[:399])


def test_filter_banks_are_their_definition() -> None:
    """In float64 throughout, where no processor's float32 logarithm plays a part."""
    samples = values("samples", (2000,)).double() * 100
    frames = np.lib.stride_tricks.sliding_window_view(samples.numpy(), 400)[::160]
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate((frames[:, :1], frames[:, :-1]), 1)
    power = np.abs(np.fft.rfft(frames * np.hanning(400), 512)[:, :256]) ** 2
    mel = 1127.0 * np.log1p(np.arange(256) * (16000 / 512) / 700.0)
    edges = np.linspace(1127.0 * np.log1p(20 / 700.0), 1127.0 * np.log1p(8000 / 700.0), 42)
    banks = np.stack([power @ np.interp(mel, edges[i : i + 3], [0.0, 1.0, 0.0]) for i in range(40)], 1)
    assert np.abs(fbank(samples, 40).numpy() - np.log(banks)).max() < 5e-6


def test_sound_is_three_clips_spread_evenly() -> None:
    assert imagebind_inputs.clip_starts(10.0, 3, 2.0) == [0.0, 4.0, 8.0] and imagebind_inputs.clip_starts(
        1.0, 3, 2.0
    ) == [0.0, 0.0, 0.0]
    wave = np.sin(np.arange(16000 * 5) / 7).astype(np.float32)
    found = imagebind_inputs.audio_values(Audio((wave, 16000)))
    assert found.shape == (3, 1, 128, 204)
    silence = (0 - imagebind_inputs.AUDIO_MEAN) / imagebind_inputs.AUDIO_STD
    torch.testing.assert_close(found[..., 198:], torch.full((3, 1, 128, 6), silence))
    clip = torch.from_numpy(wave)[24000:56000]
    torch.testing.assert_close(
        found[1, 0, :, :198] * imagebind_inputs.AUDIO_STD + imagebind_inputs.AUDIO_MEAN, fbank(clip - clip.mean()).T
    )
    assert imagebind_inputs.audio_clips(torch.zeros(3)).shape == (3, 1, 128, 204)


def test_video_is_five_clips_of_two_frames_and_three_crops() -> None:
    frames = np.zeros((40, 30, 61, 3), np.uint8)
    frames[:, :, :] = np.arange(40)[:, None, None, None]
    found = imagebind_inputs.video_clips(frames, np.arange(40) / 4)
    assert found.shape == (15, 3, 2, 224, 224)
    red = found[:, 0, :, 0, 0] * imagebind_inputs.CLIP_STD[0] + imagebind_inputs.CLIP_MEAN[0]
    torch.testing.assert_close(red * 255, torch.tensor([[8.0 * c, 8.0 * c + 7] for c in range(5) for _ in range(3)]))
    left, middle, right = imagebind_inputs.three_crops(torch.arange(61.0).expand(1, 30, 61), 30)
    assert (left[0, 0, 0], middle[0, 0, 0], right[0, 0, 0]) == (0, 16, 31)
    top, _, bottom = imagebind_inputs.three_crops(torch.arange(61.0)[:, None].expand(1, 61, 30), 30)
    assert (top[0, 0, 0], bottom[0, 0, 0]) == (0, 31)


def test_planes_and_motion() -> None:
    picture = Image.open(CAT).convert("RGB")
    found = imagebind_inputs.single_channel(picture)
    assert found.shape == (1, 224, 224) and 0 <= found.min() < found.max() <= 1
    assert imagebind_inputs.image_transform(picture).shape == (3, 224, 224)
    assert (
        imagebind_inputs.imu_values(np.ones((6, 3000))).shape == (6, 2000)
        and imagebind_inputs.imu_values(np.ones((6, 9))).sum() == 54
    )
