"""An index of a folder: what is embedded when, what survives an interruption, what is left out, bounded memory."""

import os
import sqlite3
import time
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image as Pillow

from polymodal.data.media import Image, Text
from polymodal.errors import ConfigError, MediaError, PromptError, StorageError
from polymodal.pipelines import media_index
from polymodal.pipelines.media_index import MediaIndex

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class MeanColour:
    """Pictures as their mean colour, texts as the colour they name; counts what it was given."""

    def __init__(self):
        self.batches: list[int] = []
        self.after: int | None = None  # pictures after which it is interrupted

    def __call__(self, items):
        self.batches.append(len(items))
        if self.after is not None and self.seen > self.after:
            raise KeyboardInterrupt
        rows = []
        for item in items:
            if isinstance(item, Text):
                rows.append(torch.tensor(COLOURS[item.text], dtype=torch.float32))
            elif isinstance(item, Image):
                rows.append(torch.from_numpy(numpy.asarray(item.picture, "float32").mean((0, 1))))
            else:
                raise PromptError("this model embeds pictures and text")
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    @property
    def seen(self):
        return sum(self.batches)


def paint(path: Path, colour, size=(8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new("RGB", size, colour).save(path)
    settle(path)
    return path


def settle(*paths: Path) -> None:
    """Let a file be an hour old: of a younger one the time of change says nothing yet."""
    for path in paths:
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photos"
    for name, colour in COLOURS.items():
        paint(place / "more" / f"{name}.png", colour)
    return place


@pytest.fixture
def index(folder, tmp_path):
    return MediaIndex(folder, MeanColour(), tmp_path / "index" / "x.sqlite")


def names(hits):
    return [hit.path.name for hit in hits]


def test_texts_and_pictures_find_the_nearest(index, folder):
    found = index.update()
    assert (found.indexed, found.changed, found.embedded, found.skipped, found.left_out) == (3, 3, 3, {}, {})
    hits = index.search("green", limit=2)
    assert names(hits)[0] == "green.png" and hits[0].path.is_file() and hits[0].score == pytest.approx(1)
    assert len(hits) == 2 and names(index.search("red", limit=99))[0] == "red.png"
    assert names(index.search(Image(paint(folder / "q.png", (200, 10, 10))), limit=1)) == ["red.png"]
    with pytest.raises(ConfigError, match="limit"):
        index.search("red", limit=0)


def test_only_what_changed_is_embedded_again(index, folder, monkeypatch):
    index.update()
    embed = index._embed
    before = embed.seen
    monkeypatch.setattr(media_index, "digest_of", None)  # an unchanged file is not even opened
    assert index.update().changed == 0
    monkeypatch.undo()
    (folder / "more" / "red.png").rename(folder / "moved.png")
    found = index.update()
    assert (found.changed, found.embedded, found.removed) == (1, 0, 1), "a moved file keeps its vector"
    settle(folder / "moved.png")
    os.utime(folder / "moved.png", (0, 1))
    assert index.update().embedded == 0 and embed.seen == before, "a new time with the same content costs a hash"
    paint(folder / "moved.png", COLOURS["blue"])
    assert index.update().embedded == 0, "blue.png has this content already"
    assert names(index.search("blue", limit=2)) == ["blue.png", "moved.png"]
    paint(folder / "moved.png", (1, 2, 3))
    assert index.update().embedded == 1 and embed.seen == before + 2  # and the query
    (folder / "moved.png").unlink()
    assert index.update().removed == 1 and len(index.search("red", limit=9)) == 2


def test_a_file_written_twice_within_a_moment(index, folder):
    new = folder / "new.bmp"
    paint(new, COLOURS["red"])
    now = time.time()
    os.utime(new, (now, now))
    index.update()
    Pillow.new("RGB", (8, 6), COLOURS["blue"]).save(new)  # of the same size
    os.utime(new, (now, now))
    assert index.update().embedded == 1 and names(index.search("blue", limit=2)) == ["blue.png", "new.bmp"]


def test_what_was_done_before_an_interruption_is_kept(folder, tmp_path):
    for number in range(40):
        paint(folder / f"{number}.png", (number, 9, 9))
    first, second = MeanColour(), MeanColour()
    first.after = 20
    index = MediaIndex(folder, first, tmp_path / "x.sqlite")
    with pytest.raises(KeyboardInterrupt):
        index.update(batch_size=4)
    found = MediaIndex(folder, second, tmp_path / "x.sqlite").update(batch_size=4)
    assert found.indexed == 43 and found.embedded == second.seen == 43 - 20
    assert max(second.batches) == 4


def test_bad_files_are_named_and_others_left_out(index, folder):
    whole = (folder / "more" / "red.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[:40])
    (folder / "page.jpg").write_text("<html>not found</html>")
    (folder / "empty.gif").touch()
    (folder / "sound.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt " + bytes(24))
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(whole)
    (folder / ".git").mkdir()
    (folder / ".git" / "x.png").write_bytes(whole)
    os.mkfifo(folder / "pipe.png")  # opening it would wait for ever
    (folder / "loop").symlink_to(folder)
    settle(*(path for path in folder.iterdir() if path.is_file()))
    for _ in range(2):  # the second time from the index
        found = index.update()
        assert {path.name for path in found.skipped} == {"cut.png", "page.jpg", "empty.gif"} and found.indexed == 3
        assert found.left_out == {"audio": 1}
    assert found.changed == 0
    (folder / "cut.png").write_bytes(whole)
    assert "cut.png" not in {path.name for path in index.update().skipped}


def test_a_name_that_is_not_utf8(index, folder):
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    paint(odd, COLOURS["red"])
    index.update()
    assert odd in [hit.path for hit in index.search("red", limit=2)]


def test_large_pictures_go_alone(index, folder, monkeypatch):
    monkeypatch.setattr(media_index, "PIXELS", 10_000)
    for number in range(6):
        paint(folder / f"large{number}.png", (number, 0, 0), size=(100, 60))
    index.update(batch_size=32)
    assert max(index._embed.batches) == 3  # two large ones reach the bound; small ones fit beside


def test_no_folder_and_no_media(index, folder, tmp_path):
    with pytest.raises(MediaError, match="no folder"):
        MediaIndex(tmp_path / "nowhere", MeanColour(), tmp_path / "x").update()
    index.update()
    folder.rename(tmp_path / "unmounted")
    folder.mkdir()
    with pytest.raises(MediaError, match="holds no"):
        index.update()
    folder.rmdir()
    (tmp_path / "unmounted").rename(folder)
    assert index.update().embedded == 0, "an empty folder, as of a disk that is not there, forgets nothing"


def test_a_damaged_index_is_built_anew(index):
    index.update()
    index.file.write_bytes(b"no database" * 999)
    with pytest.warns(UserWarning, match="damaged and is built anew"):
        assert index.update().embedded == 3
    with sqlite3.connect(index.file) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.warns(UserWarning, match="another version"):
        assert index.update().embedded == 3


def test_an_index_of_another_model_is_refused(index, folder):
    index.update()
    other = MediaIndex(folder, MeanColour(), index.file, owner="other weights")
    for work in (other.update, lambda: other.search("red")):
        with pytest.raises(ConfigError, match="another model"):
            work()
    assert index.update().embedded == 0 and names(index.search("red", limit=1)) == ["red.png"]


def test_an_index_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be used"):
        MediaIndex(folder, MeanColour(), tmp_path / "file" / "x.sqlite").update()
