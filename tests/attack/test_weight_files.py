"""Pickles, TorchScript archives and old streams that never end elsewhere: each is refused, or read, in little time."""

import os
import pickle
import socket
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from weight_writers import MAGIC, ONE, START, SYSTEM, get, number, put, storage, streamed, table, tensor, text, zipped

import polymodal as pm
from polymodal.checkpoints.gguf import open_gguf
from polymodal.errors import ConfigError, PolymodalError, WeightsError
from polymodal.weights.adapter_files import read_adapter
from polymodal.weights.checkpoint_files import files_of, write_files
from polymodal.weights.describe import describe
from polymodal.weights.folder import weights_in
from polymodal.weights.limits import VARIABLE, weights_limits
from polymodal.weights.read import read, read_torch

W = (text("w"), ONE)


def doubled(times: int, first: bytes, pair: Callable[[int], bytes]) -> bytes:
    """A value that is made of itself twice, again and again; it stays in the memo as number 0."""
    return first + put(0) + b"".join(pair(index) + put(0) for index in range(times)) + get(0)


def tuples(times: int) -> bytes:
    return doubled(times, b")", lambda _: get(0) + get(0) + b"\x86")


def lists(times: int) -> bytes:
    return doubled(times, b"]", lambda _: b"](" + get(0) + get(0) + b"e")


def called(what: str, *arguments: bytes) -> bytes:
    return f"c{what}\n".replace(" ", "\n").encode() + b"(" + b"".join(arguments) + b"tR"


def listed(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def grown_afterwards(count: int) -> bytes:
    """Lists of two empty lists each, which are filled only when they have been counted."""
    made = b"".join(b"]" + put(index) for index in range(count))
    return made + b"".join(get(i) + b"(" + get(i + 1) + get(i + 1) + b"e" for i in range(count - 1)) + get(0)


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
PICKLES: dict[str, tuple[bytes, str]] = {
    "nested tuples as a key": (table(W, (tuples(100), b"N")), "key of type tuple"),
    "nested tuples as one key": (b"}" + tuples(60) + b"Ns", "key of type tuple"),
    "a flat key of many parts": (b"}(" + b"N" * 500 + b"tNs", "key of type tuple"),
    "keys of an OrderedDict": (called("collections OrderedDict", listed(listed(tuples(100), b"N"))), "neither text nor"),
    "keys of a Counter": (called("collections Counter", table((tuples(100), b"N"))), "key of type tuple"),
    "a set of nested tuples": (called("builtins set", listed(tuples(100))), "neither text nor number"),
    "a set of Python 2": (called("__builtin__ set", listed(tuples(100))), "neither text nor number"),
    "instructions of sets": (b"\x8f(" + tuples(100) + b"\x90", "0x90"),
    "a frozen set": (b"(" + tuples(100) + b"\x91", "0x91"),
    "a tensor as a key": (b"}" + ONE + b"Ns", "key of type View"),
    "lists that double": (table(W, (text("x"), lists(40))), "written out"),
    "lists that double, forty levels of a hundred": (
        table(W, (text("x"), doubled(40, b"]", lambda _: b"](" + get(0) * 100 + b"e"))), "written out"),
    "tables that double": (
        table(W, (text("x"), doubled(60, b"}", lambda i: table((text("a"), get(0)), (text("b"), get(0)))))),
        "written out"),
    "lists that grow after they were shared": (table(W, (text("x"), grown_afterwards(60))), "written out"),
    "a list that holds itself": (table(W, (text("x"), b"]" + put(0) + b"(" + get(0) + b"e")), "holds itself"),
    "a million levels": (table(W, (text("x"), b")" + b"\x85" * 1_000_000)), "nests deeper"),
    "a million marks": (b"(" * 1_000_000, "ends early"),
    "six million instructions": (b"N" * 6_000_000 + b".", "more instructions than the limit of 4,000,000"),
    "two million lists": (b"]" * 2_100_000, "ends early"),
    "a million sets": (b"\x8f" * 1_000_000, "makes more values"),
    "one list made a table again and again": (
        listed(*[listed(text(str(i)), b"N") for i in range(20_000)]) + put(0)
        + b"".join(called("collections OrderedDict", get(0)) for _ in range(20_000)), "makes more values"),
    "one text made bytes again and again": (
        text("x" * 500_000) + put(0) + (called("_codecs encode", get(0), text("latin1"))) * 20_000, "makes more values"),
    "a codec": (called("_codecs encode", text("x"), text("zlib")), "unusual code"),
    "sixty thousand numbers as keys": (chained_keys(120_000), "more keys that are no text than the limit of 50,000"),
    "a text without end": (b"X\xff\xff\xff\xff", "longer than the pickle"),
    "a name without end": (b"c" + b"x" * 2_000_000, "does not end"),
    "a huge place in the memo": (b"N" + put(2**32 - 1) + b"q", "ends early"),
    "something that is not in the memo": (get(7), "KeyError"),
    "an empty stack": (b"R", "IndexError"),
    "a million million values": (table((text("w"), tensor((10**12,), (0,)))), "repeats the values"),
    "repeated in two directions": (table((text("w"), tensor((10**7, 10**7, 2), (0, 0, 1)))), "repeats the values"),
    "overlapping windows": (table((text("w"), tensor((2, 10**9), (1, 0)))), "repeats the values"),
    "a size beyond any memory": (table((text("w"), tensor((2**60, 2**60), (0, 0)))), "negative or no whole number"),
    "values behind the storage": (table((text("w"), tensor((4,), (1,), offset=1))), "reaches value 4 of a storage of 4"),
    "a step over the end": (table((text("w"), tensor((2, 2), (3, 1)))), "reaches value 4"),
    "a storage that is not there": (table((text("w"), tensor((4,), (1,), stored=storage(4, "9")))), "'9' is not in the"),
    "a storage with the name of a folder": (
        table((text("w"), tensor((4,), (1,), stored=storage(4, "../data.pkl")))), "is not in the"),
    "a hundred dimensions": (table((text("w"), tensor((1,) * 100, (1,) * 100))), "do not agree"),
    "a true number as a size": (table((text("w"), tensor((4,), (1,)).replace(number(0), b"\x88"))), "no whole number"),
    "a storage that is a text": (table((text("w"), tensor((4,), (1,), stored=text("0")))), "has no storage"),
    "a tensor that is changed": (ONE + table((text("shape"), number(10**6))) + b"b", "changes a"),
    "a function that is called later": (table(W) + b")R", "calls something that is no function"),
    "a sparse tensor": (
        table((text("w"), called("torch._utils _rebuild_sparse_tensor", b"N", b"N"))), "is stored as"),
    **{f"a call of {name} with a million million": (table((text("w"), called(name, number(10**12)))), "no tensors|is st")
       for name in BIG},
}  # fmt: skip
"""Instructions between START and STOP, and a word of the refusal."""


def opened(path: Path) -> None:
    """All that a user does with a file: look at it, look for a model in it, read it, write it anew."""
    try:
        found = read_torch(path)
    except WeightsError as refusal:
        for ask in (describe, weights_in, pm.load):
            with pytest.raises(PolymodalError):
                ask(path)
        raise refusal
    describe(path)
    for name in found:
        assert found[name].shape == found.shape(name)
    write_files(files_of(found, path), found, path.parent / "copy")


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(attack, tmp_path: Path, name: str) -> None:
    data, why = PICKLES[name]
    data = START + data + b"."
    archive = zipped(data, tmp_path / "a.pt")
    for label, path in (
        ("archive", archive),
        ("packed archive", zipped(data, tmp_path / "b.pt", method=zipfile.ZIP_DEFLATED)),
        ("stream", streamed(data, tmp_path / "c.pt")),
    ):
        with attack.one(f"{name}, {label}", seconds=2, megabytes=200), pytest.raises(WeightsError, match=why):
            read_torch(path)
    if archive.stat().st_size < 10_000:
        with attack.one(name, seconds=2, megabytes=200):
            opened(archive)
