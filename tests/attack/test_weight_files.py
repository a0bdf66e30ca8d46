"""Pickles, TorchScript archives and old streams that never end elsewhere: each is refused, or read, in little time."""

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
import torch
from weight_writers import (
    MAGIC,
    ONE,
    START,
    SYSTEM,
    get,
    number,
    put,
    quick,
    storage,
    streamed,
    table,
    tensor,
    text,
    zipped,
)

import polymodal as pm
from polymodal.cli import app
from polymodal.errors import ConfigError, PolymodalError, WeightsError
from polymodal.weights.checkpoint_files import files_of, write_files
from polymodal.weights.describe import describe
from polymodal.weights.folder import weights_in
from polymodal.weights.limits import VARIABLE, weights_limits
from polymodal.weights.read import read_torch

W = (text("w"), ONE)


def doubled(times: int, first: bytes, pair: bytes) -> bytes:
    """What makes a value of itself twice, again and again; it is in the memo as number 0 then."""
    return first + put(0) + (pair + put(0)) * times


TWICE = get(0) + get(0)
TUPLES = doubled(100, b")", TWICE + b"\x86")
LISTS = doubled(40, b"]", b"](" + TWICE + b"e")


def called(what: str, *arguments: bytes) -> bytes:
    return f"c{what}\n".replace(" ", "\n").encode() + b"(" + b"".join(arguments) + b"tR"


def listed(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def grown_afterwards(count: int) -> bytes:
    """Lists of two empty lists each, which are filled only when they have been shared."""
    made = b"".join(b"]" + put(index) for index in range(count))
    return made + b"".join(get(i) + b"(" + get(i + 1) + get(i + 1) + b"e" for i in range(count - 1))


def chained_keys(count: int) -> bytes:
    """Whole numbers that fill the places which later ones look at first."""
    place, half, mask = 0, count // 2, (1 << 17) - 1
    first = []
    for _ in range(half):
        place = (5 * place + 1) & mask
        first.append(place)
    rest = [place << 17 for place in range(1, half)]
    return table(W, *((number(key), b"N") for key in first + rest))


def modules(times: int, leaf: bytes) -> bytes:
    """A module with itself as two of its parts, again and again."""
    made = b"c__torch__\nNet\n" + put(1) + b")\x81" + table((text("leaf"), leaf)) + b"b" + put(0)
    pair = get(1) + b")\x81" + table((text("a"), get(0)), (text("b"), get(0))) + b"b" + put(0)
    return START + made + pair * times + b"."


BIG = "builtins bytearray", "torch FloatTensor", "torch.storage UntypedStorage", "torch LongTensor", "torch Size"
X = table(W, (text("x"), get(0)))
PICKLES: dict[str, tuple[bytes, str]] = {
    "nested tuples as a key": (TUPLES + table(W, (get(0), b"N")), "key of type tuple"),
    "nested tuples as one key": (TUPLES + b"}" + get(0) + b"Ns", "key of type tuple"),
    "a flat key of many parts": (b"}(" + b"N" * 500 + b"tNs", "key of type tuple"),
    "keys of an OrderedDict": (
        TUPLES + called("collections OrderedDict", listed(listed(get(0), b"N"))), "neither text nor number"),
    "keys of a Counter": (TUPLES + called("collections Counter", table((get(0), b"N"))), "key of type tuple"),
    "a set of nested tuples": (TUPLES + called("builtins set", listed(get(0))), "neither text nor number"),
    "a set of Python 2": (TUPLES + called("__builtin__ set", listed(get(0))), "neither text nor number"),
    "instructions of sets": (TUPLES + b"\x8f(" + get(0) + b"\x90", "0x90"),
    "a frozen set": (TUPLES + b"(" + get(0) + b"\x91", "0x91"),
    "a tensor as a key": (b"}" + ONE + b"Ns", "key of type View"),
    "lists that double": (LISTS + X, "written out"),
    "lists of a hundred, forty times": (doubled(40, b"]", b"](" + get(0) * 100 + b"e") + X, "written out"),
    "tables that double": (doubled(60, b"}", table((text("a"), get(0)), (text("b"), get(0)))) + X, "written out"),
    "lists that grow after they were shared": (grown_afterwards(60) + X, "written out"),
    "a list that holds itself": (b"]" + put(0) + get(0) + b"a" + X, "holds itself"),
    "a million levels": (b")" + b"\x85" * 1_000_000 + put(0) + X, "nests deeper"),
    "a million marks": (b"(" * 1_000_000, "IndexError"),
    "six million instructions": (b"N" * 6_000_000, "more instructions than the limit of 3,000,000"),
    "two million lists": (b"]" * 2_000_000, "makes more values"),
    "a million sets": (b"\x8f" * 1_000_000, "makes more values"),
    "one list made a table again and again": (
        listed(*[listed(text(str(i)), b"N") for i in range(10_000)]) + put(0)
        + called("collections OrderedDict", get(0)) * 10_000, "makes more values"),
    "one text made bytes again and again": (
        text("x" * 500_000) + put(0) + called("_codecs encode", get(0), text("latin1")) * 20_000, "makes more values"),
    "a codec": (called("_codecs encode", text("x"), text("zlib")), "unusual code"),
    "sixty thousand numbers as keys": (chained_keys(60_000), "more keys that are no text than the limit of 50,000"),
    "a text without end": (b"X\xff\xff\xff\xff", "longer than the pickle"),
    "a name without end": (b"c" + b"x" * 2_000_000, "does not end"),
    "something that is not in the memo": (get(7), "KeyError"),
    "an empty stack": (b"R", "IndexError"),
    "a million million values": (table((text("w"), tensor((10**12,), (0,)))), "repeats the values"),
    "repeated in two directions": (table((text("w"), tensor((10**7, 10**7, 2), (0, 0, 1)))), "repeats the values"),
    "overlapping windows": (table((text("w"), tensor((2, 10**9), (1, 0)))), "repeats the values"),
    "a size beyond any memory": (table((text("w"), tensor((2**60, 2**60), (0, 0)))), "negative or no whole number"),
    "values behind the storage": (table((text("w"), tensor((4,), (1,), offset=1))), "reaches value 4 of a"),
    "a step over the end": (table((text("w"), tensor((2, 2), (3, 1)))), "reaches value 4"),
    "a storage that is not there": (table((text("w"), tensor((4,), (1,), stored=storage(4, "9")))), "is not in the"),
    "a storage with the name of a folder": (
        table((text("w"), tensor((4,), (1,), stored=storage(4, "../data.pkl")))), "is not in the"),
    "a storage that claims more": (table((text("w"), tensor((4,), (1,), count=10**13))), "claim"),
    "a hundred dimensions": (table((text("w"), tensor((1,) * 100, (1,) * 100))), "do not agree"),
    "a truth as an offset": (table((text("w"), ONE.replace(number(0), b"\x88"))), "no whole number"),
    "a storage that is a text": (table((text("w"), tensor((4,), (1,), stored=text("0")))), "has no storage"),
    "a tensor that is changed": (ONE + table((text("shape"), number(10**6))) + b"b", "changes a finished"),
    "a call of something that is no function": (table(W) + b")R", "no function"),
    "a sparse tensor": (
        table(W, (text("v"), called("torch._utils _rebuild_sparse_tensor", b"N", b"N"))), "'v' is stored as"),
    **{f"a call of {name} with a million million": (
        table((text("w"), called(name, number(10**12)))), "no tensors|no function") for name in BIG},
}  # fmt: skip
"""Instructions between START and STOP, and a word of the refusal."""


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(attack, tmp_path: Path, name: str) -> None:
    data, why = PICKLES[name]
    data = START + data + b"."
    files = {
        "archive": zipped(data, tmp_path / "a.pt"),
        "packed archive": zipped(data, tmp_path / "b.pt", method=zipfile.ZIP_DEFLATED),
        "stream": streamed(data, tmp_path / "c.pt"),
    }
    for label, path in files.items() if len(data) < 100_000 else [("archive", tmp_path / "a.pt")]:
        with quick(attack, f"{name}, {label}"), pytest.raises(WeightsError, match=why):
            read_torch(path)


def test_whatever_is_done_with_such_a_file(attack, tmp_path: Path) -> None:
    """Commands and functions that look for a model, or for what a file is."""
    for name in ("nested tuples as a key", "lists that double", "a million million values", "a list that holds itself"):
        path = zipped(START + PICKLES[name][0] + b".", tmp_path / "pytorch_model.bin")
        for what in (path, tmp_path):
            for ask in (weights_in, pm.load) if what is tmp_path else (describe, weights_in, pm.load):
                with quick(attack, f"{name}, {ask.__name__}"), pytest.raises(PolymodalError):
                    ask(what)
        with quick(attack, f"{name}, show"):
            assert app.run(["show", str(path)]) == 2


def test_what_is_allowed_is_read(attack, tmp_path: Path) -> None:
    """Just below the limits: sharing, keys, repeated values, metadata; looked at and written anew."""
    shared = doubled(16, b"]", b"](" + TWICE + b"e")
    keys = b"}(" + number(3) + b"N" + b"(" + number(1) + text("a") + b"tN" + b"u"
    values = table(
        (text("w"), ONE), (text("r"), tensor((3, 4), (0, 1))), (text("t"), tensor((2, 2), (1, 2))),
        (text("x"), get(0)), (text("k"), keys), (text("o"), called("collections OrderedDict")),
        (text("s"), called("builtins set", listed(text("a"), number(1)))), (text("d"), called("torch device", b"N")),
        (text("z"), called("torch Size", b"(K\x01t")),
    )  # fmt: skip
    for write in (zipped, streamed):
        path = write(START + shared + values + b".", tmp_path / "a.pt")
        with quick(attack, write.__name__):
            found = read_torch(path)
            assert set(found) == {"w", "r", "t"} and found["w"].tolist() == [1, 2, 3, 4]
            assert found["r"].tolist() == [[1, 2, 3, 4]] * 3 and found["t"].tolist() == [[1, 3], [2, 4]]
            assert found.metadata["k"] == {3: None, (1, "a"): None} and found.metadata["s"] == {"a", 1}
            assert describe(path).metadata["x"] == "2 entries"
            (tmp_path / "copy").mkdir(exist_ok=True)
            write_files(files_of(found, path), found, tmp_path / "copy")
            assert read_torch(tmp_path / "copy" / "a.pt")["r"].tolist() == [[1, 2, 3, 4]] * 3


def test_numbers_that_collide_in_a_table_are_few(attack, tmp_path: Path) -> None:
    path = zipped(START + chained_keys(49_000) + b".", tmp_path / "a.pt")
    with quick(attack, "49,000 keys", seconds=4):
        assert list(read_torch(path)) == ["w"]


SCRIPTS = {
    "a module in two places, forty times": (modules(40, ONE), "more values|more tensors"),
    "an empty module in two places, forty times": (modules(40, b"N"), "more values"),
    "a module in two places, eighteen times": (modules(18, ONE), "more tensors than the limit of 200,000"),
    "names that grow": (modules(14, ONE).replace(text("a"), text("a" * 2000)), "characters"),
    "nested tuples as a key": (START + TUPLES + table((get(0), b"N")) + b".", "key of type tuple"),
    "a list that doubles": (START + LISTS + get(0) + b".", "written out"),
    "a million million values": (
        START + b"c__torch__\nNet\n)\x81" + table((text("w"), tensor((10**12,), (0,)))) + b"b.",
        "repeats",
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_archives(attack, tmp_path: Path, name: str) -> None:
    data, why = SCRIPTS[name]
    with quick(attack, name), pytest.raises(WeightsError, match=why):
        read_torch(zipped(data, tmp_path / "a.pt", script=True))


def test_a_module_in_two_places_gives_its_tensors_twice(attack, tmp_path: Path) -> None:
    with quick(attack, "ten times"):
        assert len(read_torch(zipped(modules(10, ONE), tmp_path / "a.pt", script=True))) == 1024
    with quick(attack, "empty ones beside a tensor"):  # half a million places, none of which holds anything
        beside = modules(17, b"N")[:-1] + b"c__torch__\nNet\n)\x81" + table((text("e"), get(0)), W) + b"b."
        assert list(read_torch(zipped(beside, tmp_path / "a.pt", script=True))) == ["w"]


def archives(folder: Path) -> Iterator[tuple[str, Path, str]]:
    plain = START + table(W) + b"."
    bomb = zipped(START + b"(" * 2_000_000, folder / "bomb.pt", method=zipfile.ZIP_DEFLATED)
    yield "a pickle that unpacks to twice the limit", bomb, "longer than the limit"
    with zipfile.ZipFile(folder / "more.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", plain)
        for index in range(12):
            archive.writestr(f"m/data/{index}", bytes(1_000_000))
    yield "members that unpack to 12 MB", folder / "more.pt", "unpack to"
    many = folder / "many.pt"
    with zipfile.ZipFile(many, "w") as archive:
        archive.writestr("m/data.pkl", plain)
    end = many.read_bytes()
    begin = end.index(b"PK\x01\x02")
    entry = end[begin : end.index(b"PK\x05\x06")]
    count = 3_000
    many.write_bytes(end[:begin] + entry * count + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count & 0xFFFF,
                     count & 0xFFFF, len(entry) * count, begin, 0))  # fmt: skip
    yield "3,000 members", many, "more members than"
    few = folder / "few.pt"
    few.write_bytes(
        end[:begin] + entry * 2 + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 2, 2, len(entry) * 2, begin, 0)
    )
    yield "two members of one name", few, "one name"
    roots = folder / "roots.pt"
    with zipfile.ZipFile(roots, "w") as archive:
        for index in range(1_900):
            archive.writestr(f"{index}/constants.pkl", b"")
    yield "1,900 roots", roots, "no data.pkl"
    yield "an unusual way to pack", zipped(plain, folder / "lzma.pt", method=zipfile.ZIP_LZMA), "neither stored nor"
    shared = bytearray(zipped(plain, folder / "shared.pt").read_bytes())
    for at in (shared.index(b"PK\x01\x02"), shared.rindex(b"PK\x01\x02")):
        shared[at + 20 : at + 28] = struct.pack("<II", len(shared), len(shared))
    (folder / "shared.pt").write_bytes(shared)
    yield "members that claim the same bytes", folder / "shared.pt", "the same bytes"


def test_archives(attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "header=1e6,bytes=1e7,tensors=2000")  # so that small files are over them
    for name, path, why in archives(tmp_path):
        with quick(attack, name), pytest.raises(WeightsError, match=why):
            read_torch(path)


def test_many_views_of_one_storage(attack, tmp_path: Path) -> None:
    """A small file that would fill any memory, though each of its tensors is in it."""
    stored = storage(1_000_000)
    views = [(text(str(i)), tensor((1_000_000,), (1,), stored=stored if i == 0 else get(5))) for i in range(400)]
    views[0] = (views[0][0], tensor((1_000_000,), (1,), stored=stored + put(5)))
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("m/data.pkl", START + table(*views) + b".")
        archive.writestr("m/data/0", bytes(4_000_000))
    with quick(attack, "400 views"), pytest.raises(WeightsError, match="tensors hold 1,600,000,000 bytes"):
        read_torch(tmp_path / "a.pt")


def test_streams(attack, tmp_path: Path) -> None:
    good, path = START + table(W) + b".", tmp_path / "a.pt"
    twice = START + b"](" + text("0") + text("0") + b"e."
    cases = {
        "claims a storage of terabytes": (
            START + table((text("w"), tensor((4,), (1,), count=10**12))) + b".", None, None, "does not have"),
        "another number of values": (good, None, struct.pack("<q4f", 3, 1, 2, 3, 4), "does not have the 4 values"),
        "too few values": (good, None, struct.pack("<q3f", 4, 1, 2, 3), "does not have the 4 values"),
        "no storage": (good, START + b"].", b"", "is not in the file"),
        "a storage twice": (good, twice, struct.pack("<q4f", 4, 1, 2, 3, 4) * 2, "there twice"),
        "a storage of nothing": (good, START + b"](" + text("7") + b"e.", b"", "belongs to no tensor"),
        "keys that are no list": (good, START + table(W) + b".", b"", "no list of storages"),
    }  # fmt: skip
    for name, (data, keys, values, why) in cases.items():
        with quick(attack, name), pytest.raises(WeightsError, match=why):
            read_torch(streamed(data, path, keys, values))
    for name, content, why in (
        ("no magic number", START + b"K\x01.", "magic number"),
        ("magic number and nothing", MAGIC, "ends early"),
        ("of a tar archive", bytes(257) + b"ustar" + bytes(600), "tar archive"),
        ("a system of nested tuples", MAGIC + START + TUPLES + b"}" + get(0) + b"Ns.", "key of type tuple"),
        ("zeros", SYSTEM + bytes(1_000_000), "magic number"),
    ):
        path.write_bytes(content)
        with quick(attack, name), pytest.raises(WeightsError, match=why):
            read_torch(path)


def test_limits_are_raised_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(START + table((text("w"), tensor((20_000_000,), (0,)))) + b".", tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"repeated=671088640$") as refusal:
        read_torch(path)
    monkeypatch.setenv(VARIABLE, str(refusal.value).rpartition(f"{VARIABLE}=")[2])
    assert read_torch(path).shape("w") == (20_000_000,)
    for wrong in ("repeated", "repeated=-1", "nothing=3", "values=many", "values=1e999"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ConfigError, match="expected NAME=NUMBER"):
            weights_limits()


def test_no_object_of_a_user_is_made(tmp_path: Path) -> None:
    """A class that torch was told to be safe is named and not made; any other is refused by name."""
    data = START + table(W, (text("args"), called("pathlib PurePosixPath", text("/")))) + b"."
    path = zipped(data, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"refused.*pathlib.PurePosixPath"):
        read_torch(path)
    with torch.serialization.safe_globals([PurePosixPath]):
        assert repr(read_torch(path).metadata["args"]) == "<pathlib.PurePosixPath>"
