"""Reading videos: the right frames by time, rotation, sound, bounds, damage.  The videos are made here with PyAV.

Each frame is one grey level that encodes its index (10 levels apart, so lossy codecs cannot confuse neighbours), with
a bright top left corner that shows which way is up.
"""

import io
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from polymodal.data.limits import Limits
from polymodal.data.media import Audio, Image, Text, Video, guess_media
from polymodal.data.video import Timeline, choose_frames, read_video, track_kinds
from polymodal.errors import ConfigError, MediaError
from tiny_video import STEP, video


def index_of(frame: np.ndarray) -> int:
    """Which of the first 23 frames this is, by the level in its middle."""
    middle = frame[frame.shape[0] // 2 - 2 : frame.shape[0] // 2 + 2, frame.shape[1] // 2 - 2 : frame.shape[1] // 2 + 2]
    return round((middle.mean() - 10) / STEP)


@pytest.fixture(scope="module")
def plain() -> bytes:
    return video(sound=True)


def turned(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """The same MP4 with another rotation in its track header, as phones write it."""
    place = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 & 0xFFFFFFFF for value in matrix)
    words = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return data[:place] + b"".join(word.to_bytes(4, "big") for word in words) + data[place + 36 :]


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp4", "libx264"),
        ("webm", "libvpx"),
        ("mkv", "libx264"),
        ("avi", "mpeg4"),
        ("ts", "libx264"),
    ],
)
def test_frames_by_count(container, codec):
    clip = read_video(video(container, codec), frames=4)
    assert clip.frames.shape == (4, 48, 64, 3) and clip.frames.dtype == np.uint8
    assert [index_of(frame) for frame in clip.frames] == [2, 7, 12, 17]
    assert np.abs(clip.seconds - [0.2, 0.7, 1.2, 1.7]).max() <= 0.011


def test_frames_by_rate(plain):
    clip = read_video(plain, fps=2)
    assert [index_of(frame) for frame in clip.frames] == [0, 5, 10, 15]
    assert np.allclose(clip.seconds, [0.0, 0.5, 1.0, 1.5])
    everything = read_video(plain, fps=10)
    assert [index_of(frame) for frame in everything.frames] == list(range(20))


def test_more_frames_than_there_are_repeat(plain):
    clip = read_video(plain, fps=20)
    assert [index_of(frame) for frame in clip.frames] == [index // 2 for index in range(40)]


def test_first_timestamp_need_not_be_zero():
    clip = read_video(video("mkv", stamps=list(range(500, 700, 10))), frames=2)
    assert [index_of(frame) for frame in clip.frames] == [5, 15] and np.allclose(clip.seconds, [0.5, 1.5])


def test_variable_rate_picks_by_time():
    """A slide show: three frames at 0, 0.1 and 0.2 s, then one that stands until 2 s, then two more."""
    clip = read_video(video("mkv", stamps=[0, 10, 20, 30, 200, 210]), fps=2)
    assert [index_of(frame) for frame in clip.frames] == [0, 3, 3, 3, 4]


def test_sparse_sampling_seeks_and_gives_the_same_frames():
    """With a key frame every 5 frames, sparse sampling skips; every frame alone equals the frame out of all."""
    data = video(stamps=list(range(0, 230, 10)), options={"bf": "2"})
    everything = read_video(data, fps=10)
    assert [index_of(frame) for frame in everything.frames] == list(range(23))
    for count in (1, 2, 3, 7):
        clip = read_video(data, frames=count)
        for frame, second in zip(clip.frames, clip.seconds, strict=True):
            assert np.array_equal(frame, everything.frames[round(second * 10)])


def test_pixels_equal_a_plain_decode(plain):
    with av.open(io.BytesIO(plain)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.array_equal(read_video(plain, fps=10).frames, np.stack(expected))


@pytest.mark.parametrize(
    ("matrix", "corner", "shape"),
    [
        ((1, 0, 0, 1), (0, 0), (48, 64)),
        ((0, 1, -1, 0), (0, 1), (64, 48)),  # a quarter turn clockwise: the corner moves to the top right
        ((-1, 0, 0, -1), (1, 1), (48, 64)),
        ((0, -1, 1, 0), (1, 0), (64, 48)),
    ],
)
def test_rotation_is_applied(plain, matrix, corner, shape):
    frame = read_video(turned(plain, matrix), frames=1).frames[0]
    height, width = shape
    assert frame.shape == (height, width, 3)
    middle = frame[height // 2, width // 2]
    assert middle.max() < 200
    bright = [
        (row, column) for row in (0, 1) for column in (0, 1) if frame[-3 if row else 2, -3 if column else 2].min() > 200
    ]
    assert bright == [corner]


def test_max_side_shrinks(plain):
    clip = read_video(plain, frames=2, max_side=32)
    assert clip.frames.shape == (2, 24, 32, 3) and [index_of(frame) for frame in clip.frames] == [5, 15]


def test_frames_at_given_times(plain):
    clip = read_video(plain, times=[0.0, 0.44, 0.44, 1.99, 50.0])
    assert [index_of(frame) for frame in clip.frames] == [0, 4, 4, 19, 19]
    assert Video(plain).seconds == 2.0


@pytest.mark.parametrize(("count", "total"), [(4, 10_000), (20, 1000), (1, 3071), (3, 5)])
def test_frames_that_are_too_many_pixels_together_are_shrunk(plain, count, total):
    clip = read_video(plain, frames=count, limits=Limits(total_pixels=total))
    number, height, width, _ = clip.frames.shape
    assert number == count and number * height * width <= total
    if total > 500:
        assert number * height * width > 0.8 * total and abs(width / height - 4 / 3) < 0.3


def test_long_videos_are_sampled_sparsely():
    """Of a video that has more frames at a model's rate than may be read, only those that it takes are."""
    from polymodal.data.imagebind_inputs import video_values
    from polymodal.data.patches import MergedPatches, MergedVideo

    data = video(stamps=list(range(0, 6000, 50)))  # a minute, two frames a second
    long, short = Video(data, Limits(frames=30)), Video(data)
    transform = MergedVideo(patches=MergedPatches(min_pixels=28 * 28, max_pixels=28 * 28 * 2), max_frames=8)
    assert transform(long)["grid"].tolist()[0] == 4
    assert np.array_equal(transform(long)["patches"], transform(short)["patches"])
    found, expected = video_values(long), video_values(short)
    assert found.shape == expected.shape == (15, 3, 2, 224, 224)
    assert (found - expected).abs().max() < 0.25  # neighbouring frames differ by 10 of 255


def test_memory_is_bounded_by_the_sampled_frames():
    data = video(size=(640, 480), stamps=list(range(0, 1200, 10)), options={"preset": "ultrafast"})
    sampled = 2 * 640 * 480 * 3
    tracemalloc.start()
    try:
        read_video(data, frames=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 3 * sampled + len(data), (peak, sampled)


def test_sound_track(plain):
    samples = Video(plain).sound.samples(8000)
    assert abs(len(samples) - 16_000) <= 1024
    assert abs(np.argmax(np.abs(np.fft.rfft(samples[4000:12_000]))) - 440) <= 2
    assert Video(video()).sound is None


def test_record_decodes_once_and_hashes(plain, tmp_path):
    record = Video(plain)
    assert record.clip(frames=2) is record.clip(frames=2) and record.clip(fps=1) is not record.clip(frames=2)
    path = tmp_path / "a.mp4"
    path.write_bytes(plain)
    assert record.content_hash(frames=2) == Video(path).content_hash(frames=2) != record.content_hash(frames=3)


@pytest.mark.parametrize(
    ("limits", "how", "message"),
    [
        (Limits(seconds=1.0), {"frames": 2}, r"2\.0 s long, the limit is 1 s"),
        (Limits(pixels=3000), {"frames": 2}, r"64 x 48 = 3,072 pixels, the limit is 3,000"),
        (Limits(frames=3), {"frames": 4}, "4 frames were asked for, the limit is 3"),
        (Limits(frames=3), {"fps": 10}, "more than the limit of 3 frames"),
        (Limits(frames=3), {"times": [0.0, 0.1, 0.2, 0.3]}, "4 frames were asked for, the limit is 3"),
        (Limits(bytes=100), {"frames": 1}, "the limit is 100 bytes"),
    ],
)
def test_bounds(plain, limits, how, message):
    with pytest.raises(MediaError, match=message):
        read_video(plain, limits=limits, **how)


def test_length_is_counted_when_the_header_lies():
    """All durations in the header set to almost nothing: the packets still tell."""
    data = bytearray(video())
    for name, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        start = 0
        while (start := data.find(name, start)) >= 0:
            data[start + offset : start + offset + 4] = (1).to_bytes(4, "big")
            start += 4
    with pytest.raises(MediaError, match=r"is 2\.0 s long, the limit is 0\.5 s"):
        read_video(bytes(data), frames=2, limits=Limits(seconds=0.5))


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"fps": 1, "frames": 2},
        {"fps": 0},
        {"frames": -1},
        {"fps": 1, "max_side": 0},
        {"times": []},
        {"fps": 1, "times": [0]},
    ],
)
def test_sampling_must_be_said_once(plain, settings_):
    with pytest.raises(ConfigError, match="exactly one"):
        read_video(plain, **settings_)


def test_truncated(plain, tmp_path):
    path = tmp_path / "cut.mp4"
    long = video(stamps=list(range(0, 1000, 10)))
    path.write_bytes(long[: len(long) // 2])
    with pytest.raises(MediaError, match="cut short"):
        read_video(path, frames=2)
    path.write_bytes(plain[:200])
    with pytest.raises(MediaError):
        read_video(path, frames=2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "empty"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n/etc/passwd\n", "plain text"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "plain text"),
        ("rtsp://example.com/stream", "URL"),
        ("concat:a.mp4|b.mp4", "URL"),
        (b"\x00" * 64, "unknown format"),
        (b"\xff\xd8\xff" + b"\0" * 50, "not a recording or video"),
    ],
)
def test_refusals(source, message):
    with pytest.raises(MediaError, match=message) as caught:
        read_video(source, frames=1)
    assert "0x" not in str(caught.value) and "\n" not in str(caught.value)


def test_playlist_behind_a_container_head_opens_nothing():
    """Bytes that begin like MP4 but go on as a playlist never reach FFmpeg's playlist reader."""
    with pytest.raises(MediaError, match="damaged"):
        read_video(b"\0\0\0\x08free#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n" + b"\0" * 100, frames=1)


def test_guess_media(plain, tmp_path):
    sound_only = io.BytesIO()
    with av.open(sound_only, "w", format="matroska") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    picture = io.BytesIO()
    Pillow.new("RGB", (3, 3)).save(picture, "PNG")
    for content, kind in [
        (plain, Video),
        (sound_only.getvalue(), Audio),
        (picture.getvalue(), Image),
        ("Grüße, <image>\n".encode(), Text),
    ]:
        path = tmp_path / "file.xyz"
        path.write_bytes(content)
        assert type(guess_media(path)) is kind
    assert guess_media(path) == Text("Grüße, <image>\n")
    for content in (b"\x00\x01\x02", b"text, then\n" * 1000 + b"\x00\x01", b"OggS" + b"\0" * 100):
        path.write_bytes(content)
        with pytest.raises(MediaError):
            guess_media(path)
    assert track_kinds(plain) == {"video", "audio"}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_videos_give_frames_or_media_error(data):
    mutated = bytearray(MUTATED)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(mutated)), st.integers(0, len(mutated))))
    try:
        clip = read_video(bytes(mutated[:cut]), frames=2, limits=Limits(seconds=60, pixels=100_000, total_pixels=10**6))
    except MediaError as error:
        assert "0x" not in str(error) and "\n" not in str(error)
    else:
        assert clip.frames.dtype == np.uint8 and len(clip.frames) == len(clip.seconds) == 2


MUTATED = video(stamps=[0, 10, 20, 30, 40, 50], size=(32, 32))


@settings(max_examples=200, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 500), min_size=0, max_size=60),
    start=st.integers(-1000, 1000),
    last=st.integers(1, 500),
    frames=st.integers(1, 80),
    fps=st.floats(0.1, 60),
)
def test_chosen_frames_are_the_ones_shown(gaps, start, last, frames, fps):
    ticks = np.cumsum([start, *gaps]).astype(np.int64)
    timeline = Timeline(ticks, [start], int(ticks[-1]) + last, Fraction(1, 100))
    for chosen, wanted in [
        (choose_frames(timeline, frames=frames), [(k + 0.5) * timeline.seconds / frames for k in range(frames)]),
        (
            choose_frames(timeline, fps=fps),
            [k / fps for k in range(max(1, int(np.ceil(timeline.seconds * fps - 1e-6))))],
        ),
    ]:
        assert len(chosen) == len(wanted) and (np.diff(chosen) >= 0).all()
        for index, second in zip(chosen, wanted, strict=True):
            shown = (ticks[index] - ticks[0]) / 100
            assert shown <= second + 0.01 + 1e-9
            if index + 1 < len(ticks):
                assert second < (ticks[index + 1] - ticks[0]) / 100
