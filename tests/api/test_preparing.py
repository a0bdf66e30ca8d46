"""Lists as WebDataset shards: what training then reads, the same bytes whoever writes them, what is left out."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from polymodal.api.preparing import PrepareOptions, prepare
from polymodal.data.datasets.opening import open_dataset
from polymodal.data.media import Text
from polymodal.errors import ConfigError

SIX = PrepareOptions(side=20, shard=2)


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Seven samples: pictures large, small, two at once, none; one that is damaged."""
    for number, size in enumerate(((80, 60), (16, 12), (60, 90))):
        noise = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), "uint8")
        Pillow.fromarray(noise).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no picture")
    turns = [{"role": "user", "content": "<image>or<image>?"}, {"role": "assistant", "content": "ü"}]
    rows = [
        {"image": "0.png", "question": "what?", "answer": "it"},
        {"image": "1.png", "caption": "small"},
        {"messages": turns, "images": ["2.png", "1.png"]},
        {"text": "words alone"},
        {"image": "bad.png", "caption": "damaged"},
        {"image": "2.png", "label": 3, "image_id": "x"},
        {"image": "gone.png", "caption": "gone"},
    ]
    file = tmp_path / "talks.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_are_read_as_the_list_was_with_smaller_pictures(talks: Path, tmp_path: Path) -> None:
    made = prepare(talks, tmp_path / "out", SIX)
    assert [each["samples"] for each in made["shards"]] == [2, 2, 1, 0]
    skipped = [each for shard in made["shards"] for each in shard["skipped"]]
    assert len(skipped) == 2 and skipped[0].startswith("talks.jsonl:5: ") and "gone.png" in skipped[1]
    assert not (tmp_path / "out" / "data-00003.tar").exists()
    before, after = open_dataset(talks), open_dataset(tmp_path / "out")
    assert len(after) == 5
    for old, new in zip((0, 1, 2, 3, 5), range(5), strict=True):
        left, right = before.sample(old), after.sample(new)
        assert (left.text, left.labels, left.group) == (right.text, right.labels, right.group)
        for one, other in zip(left.messages, right.messages, strict=True):
            assert [type(part) for part in one.parts] == [type(part) for part in other.parts]
            assert [part for part in one.parts if isinstance(part, Text)] == [
                part for part in other.parts if isinstance(part, Text)
            ]
    sizes = [part.picture.size for message in after.sample(2).messages for part in message.media]
    assert sizes == [(20, 30), (16, 12)]
    small = after.sample(1).messages[0].media[0].picture
    assert np.array_equal(np.asarray(small), np.asarray(Pillow.open(tmp_path / "1.png"))), "not larger: as it was"


def test_what_was_interrupted_goes_on_to_the_same_bytes(talks: Path, tmp_path: Path) -> None:
    prepare(talks, tmp_path / "a", SIX)
    whole = bytes_of(tmp_path / "a")
    (tmp_path / "a" / "data-00001.tar").unlink()
    asked: list[tuple[int, int]] = []
    prepare(talks, tmp_path / "a", SIX, lambda count, total: asked.append((count, total)))
    assert bytes_of(tmp_path / "a") == whole and asked == [(4, 4)]
    (tmp_path / "a" / "data-00002.json").unlink()  # killed behind the shard
    prepare(talks, tmp_path / "a", SIX)
    assert bytes_of(tmp_path / "a") == whole
    with pytest.raises(ConfigError, match="holds shards of another side"):
        prepare(talks, tmp_path / "a", PrepareOptions(side=10, shard=2))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="is not empty and holds no shards"):
        prepare(talks, tmp_path / "b", SIX)


def test_workers_of_ray_write_the_same_bytes(talks: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    prepare(talks, tmp_path / "one", SIX)
    prepare(talks, tmp_path / "two", PrepareOptions(side=20, shard=2, workers=2))
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"regions": "a.npz", "caption": "c"}, "regions is read where it lies, and not packed"),
        ({"features": {"text": [[1.0]]}, "label": 1}, "features are read where they lie"),
        ({"image": "gone.png", "caption": "c"}, "every sample is damaged, as .*there is no file"),
    ],
)
def test_what_cannot_be_packed_is_told(tmp_path: Path, row: dict, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match=message):
        prepare(tmp_path / "a.jsonl", tmp_path / "out")
