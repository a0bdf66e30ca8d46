"""Readers give what the formats' own libraries wrote, and refuse damaged or unsafe files in one line."""

import json
import pickle
import struct
import time
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from polymodal.errors import WeightsError
from polymodal.weights.describe import describe
from polymodal.weights.read import read, read_gguf, read_npz, read_safetensors, read_torch

TENSORS = {"a.weight": torch.randn(3, 4), "b": torch.randn(5).bfloat16(), "n": torch.arange(6).reshape(2, 3)}
KINDS = gguf.GGMLQuantizationType


def same(found, wanted) -> bool:
    return set(found) == set(wanted) and all(
        torch.equal(found[name], wanted[name]) and found[name].dtype == wanted[name].dtype for name in wanted
    )


def test_safetensors(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"made": "here"})
    opened = read_safetensors(path)
    assert same(opened, TENSORS) and opened.metadata == {"made": "here"}
    assert opened.shape("a.weight") == (3, 4) and opened.infos["b"].dtype == "BF16"
    with pytest.raises(KeyError):
        opened["c"]


def test_sharded_safetensors(tmp_path: Path):
    places = {"a.weight": "one.safetensors", "b": "two.safetensors", "n": "two.safetensors"}
    for shard in set(places.values()):
        save_file({name: TENSORS[name] for name in TENSORS if places[name] == shard}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    assert same(read_safetensors(index), TENSORS)
    for wrong, words in [
        ({"weight_map": {"a.weight": "../one.safetensors"}}, "outside its own folder"),
        ({"weight_map": {"zz": "one.safetensors"}}, "'zz' is not in the shard"),
        ({"weight_map": {"a.weight": "three.safetensors"}}, "no such file"),
        ({"weights": 1}, "weight_map"),
    ]:
        index.write_text(json.dumps(wrong))
        with pytest.raises(WeightsError, match=words):
            read_safetensors(index)


def test_npz(tmp_path: Path):
    path = tmp_path / "model.npz"
    np.savez_compressed(path, **{"w": np.ones((2, 3), np.float16), "k/e": np.arange(4)})
    opened = read_npz(path)
    assert opened["w"].dtype == torch.float16 and opened.shape("w") == (2, 3)
    assert torch.equal(opened["k/e"], torch.arange(4))


@pytest.mark.parametrize("legacy", [False, True])
def test_torch(tmp_path: Path, legacy: bool):
    path = tmp_path / "model.pt"
    torch.save(
        {"dims": {"width": 4}, "step": 3, "model": {"state": TENSORS}},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    opened = read_torch(path, "model.state")
    assert same(opened, TENSORS) and opened.metadata == {"dims": {"width": 4}, "step": 3}
    with pytest.raises(WeightsError, match=r"no tensors at the top.*found: dims, step, model"):
        read_torch(path)
    assert describe(path, entry="model.state").parameters == 23
    with pytest.raises(WeightsError, match="there is no entry 'ema'"):
        read_torch(path, "ema")
    torch.save(torch.nn.Linear(2, 3).state_dict(), path, _use_new_zipfile_serialization=not legacy)
    assert read_torch(path).shape("weight") == (3, 2)


def write_gguf(path: Path, tensors: dict[str, tuple[np.ndarray, KINDS]]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b ", "Ġc"])
    writer.add_array("scores", [0.5, -1.5])
    writer.add_bool("flag", True)
    for name, (values, kind) in tensors.items():
        if kind in (KINDS.F32, KINDS.F16):
            writer.add_tensor(name, values.astype(np.float32 if kind == KINDS.F32 else np.float16))
        else:
            writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_every_block_format_equals_the_library(tmp_path: Path):
    """K-quants have no writer in Python: random blocks with finite scales stand in for them."""
    chance = np.random.default_rng(0)
    kinds = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "BF16"]
    tensors, wanted = {}, {}
    for name in kinds:
        kind = KINDS[name]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if name.endswith("_K"):
            raw = chance.integers(0, 60, (3, 2 * size), dtype=np.uint8)
        else:
            raw = quantize(chance.standard_normal((3, 2 * block)).astype(np.float32), kind)
        tensors[name] = (raw, kind)
        wanted[name] = dequantize(raw, kind)
    plain = chance.standard_normal((2, 3, 5)).astype(np.float32)
    tensors |= {"f32": (plain, KINDS.F32), "f16": (plain, KINDS.F16)}
    path = tmp_path / "model.gguf"
    write_gguf(path, tensors)
    opened = read_gguf(path)
    for name, values in wanted.items():
        assert opened[name].dtype == torch.float32 and opened.infos[name].dtype == name
        assert np.isfinite(values).all() and np.array_equal(opened[name].numpy(), values), name
    assert torch.equal(opened["f32"], torch.from_numpy(plain)) and opened.shape("f32") == (2, 3, 5)
    assert torch.equal(opened["f16"], torch.from_numpy(plain).half())
    assert opened.metadata["tokenizer.ggml.tokens"] == ["a", "b ", "Ġc"]
    assert opened.metadata["llama.block_count"] == 2 and opened.metadata["flag"] is True
    assert opened.metadata["scores"] == [0.5, -1.5]


def test_describe(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"about": "x" * 1000})
    found = describe(path)
    assert found.as_dict() == {
        "path": str(path),
        "format": "safetensors",
        "tensors": 3,
        "parameters": 23,
        "bytes": 12 * 4 + 5 * 2 + 6 * 8,
        "dtypes": {"F32": 1, "BF16": 1, "I64": 1},
        "metadata": {"about": "1000 characters"},
    }
    with pytest.raises(WeightsError, match="unknown kind"):
        describe(tmp_path / "model.tflite")
    with pytest.raises(WeightsError, match="unknown weights format"):
        read(path, "pickle")


class Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of a weights file was run')",)


def header(table: object, length: int | None = None, tail: bytes = b"") -> bytes:
    text = json.dumps(table).encode() if not isinstance(table, bytes) else table
    return struct.pack("<Q", len(text) if length is None else length) + text + tail


def gguf_bytes(*parts: bytes, tensors: int = 0, values: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values) + b"".join(parts)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = {
    "text": ("m.safetensors", b"<!doctype html><title>not found</title>" * 9, "claims"),
    "short": ("m.safetensors", b"abc", "3 bytes"),
    "empty": ("m.safetensors", b"", "empty"),
    "pointer": (
        "m.safetensors",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "git-lfs pointer",
    ),
    "huge header": ("m.safetensors", header(b"{}", 1 << 60), "claims"),
    "header over the end": ("m.safetensors", header({"a": ONE}, 5000), "claims 5000"),
    "no json": ("m.safetensors", header(b"{{{{"), "its header is damaged"),
    "deep json": ("m.safetensors", header(b"[" * 200_000), "deeper than 64"),
    "a list": ("m.safetensors", header([1]), "not a table"),
    "offsets outside": (
        "m.safetensors",
        header({"a": ONE | {"data_offsets": [0, 80]}}, tail=bytes(8)),
        "'a' lies outside",
    ),
    "offsets backwards": (
        "m.safetensors",
        header({"a": ONE | {"data_offsets": [8, 0]}}, tail=bytes(8)),
        "'a' lies outside",
    ),
    "truncated": ("m.safetensors", header({"a": ONE}, tail=bytes(5)), "'a' lies outside"),
    "too long": ("m.safetensors", header({"a": ONE}, tail=bytes(99)), "end at byte"),
    "shape and bytes differ": (
        "m.safetensors",
        header({"a": ONE | {"shape": [3]}}, tail=bytes(8)),
        "safetensors",
    ),
    "overlap": ("m.safetensors", header({"a": ONE, "b": ONE}, tail=bytes(8)), "safetensors"),
    "unknown type": ("m.safetensors", header({"a": ONE | {"dtype": "Q9"}}, tail=bytes(8)), "safetensors"),
    "no record": ("m.safetensors", header({"a": 3}), "no record"),
    "pickle": ("m.pt", pickle.dumps({"w": Harmful()}), "refused.*exec.*can run code"),
    "old pickle": ("m.bin", pickle.dumps(Harmful(), 0), "refused.*can run code"),
    "zip without pickle": ("m.pt", b"PK\x05\x06" + bytes(18), "not a sound torch file"),
    "torch text": ("m.pt", b"hello, this is text", "m.pt"),
    "gguf magic": ("m.gguf", b"GGML" + bytes(40), "not a GGUF file"),
    "gguf version": ("m.gguf", gguf_bytes(version=99), "version 99"),
    "gguf cut": ("m.gguf", gguf_bytes()[:9], "the file ends at 9"),
    "gguf counts": ("m.gguf", gguf_bytes(values=1 << 62), "the file ends"),
    "gguf tensors": ("m.gguf", gguf_bytes(tensors=1 << 62), "the file ends"),
    "gguf key": ("m.gguf", gguf_bytes(struct.pack("<Q", 1 << 61), values=1), "the file ends"),
    "gguf list": (
        "m.gguf",
        gguf_bytes(text("k"), struct.pack("<IIQ", 9, 4, 1 << 61), values=1),
        "does not fit",
    ),
    "gguf type": ("m.gguf", gguf_bytes(text("k"), struct.pack("<I", 77), values=1), "unknown type 77"),
    "gguf nested": (
        "m.gguf",
        gguf_bytes(text("k"), struct.pack("<I", 9), struct.pack("<IQ", 9, 1) * 40, values=1),
        "unknown type",
    ),
    "gguf kind": (
        "m.gguf",
        gguf_bytes(text("w"), struct.pack("<IQIQ", 1, 4, 999, 0), tensors=1),
        "GGML type 999",
    ),
    "gguf dims": ("m.gguf", gguf_bytes(text("w"), struct.pack("<I", 1 << 31), tensors=1), "dimensions"),
    "gguf data": (
        "m.gguf",
        gguf_bytes(text("w"), struct.pack("<IQIQ", 1, 1 << 40, 0, 0), tensors=1),
        "'w' ends at",
    ),
    "gguf blocks": (
        "m.gguf",
        gguf_bytes(text("w"), struct.pack("<IQIQ", 1, 31, 2, 0), tensors=1),
        "blocks of 32",
    ),
    "npz text": ("m.npz", b"hello, this is text", "npz"),
    "npz broken": ("m.npz", b"PK\x03\x04" + bytes(60), "not a sound npz file"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_and_unsafe_files_are_one_line_at_once(case: str, tmp_path: Path):
    name, content, words = DAMAGED[case]
    path = tmp_path / name
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(WeightsError, match=words) as caught:
        opened = describe(path)
        raise AssertionError(opened)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message and len(message) < 600
    assert time.process_time() - start < 5, "a damaged header must not be searched or allocated at length"


def test_arrays_of_objects_are_refused(tmp_path: Path):
    path = tmp_path / "m.npz"
    np.savez(path, good=np.ones(2), bad=np.array([Harmful()], dtype=object))
    with pytest.raises(WeightsError, match="refused: array 'bad' holds pickled objects"):
        read_npz(path)
    single = tmp_path / "one.npz"
    with single.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(WeightsError, match="found a single array"):
        read_npz(single)


def test_an_array_that_claims_more_than_it_has(tmp_path: Path):
    path = tmp_path / "m.npz"
    start = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(start)) + start
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", member)
    with pytest.raises(WeightsError, match="claims 8000000000000 bytes"):
        read_npz(path)


def test_a_file_that_is_not_there(tmp_path: Path):
    for reader in (read_safetensors, read_gguf, read_torch, read_npz):
        with pytest.raises(WeightsError, match="there is no such file"):
            reader(tmp_path / "absent")
        with pytest.raises(WeightsError, match="is a folder, expected a regular file"):
            reader(tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sound")
    save_file(TENSORS, folder / "m.safetensors")
    write_gguf(folder / "m.gguf", {"w": (np.ones((2, 4), np.float32), KINDS.F32)})
    torch.save({"w": torch.ones(3)}, folder / "m.pt")
    np.savez(folder / "m.npz", w=np.ones(3))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_an_error_of_ours_or_harmless(sound, tmp_path: Path, data):
    """Cut or change a sound file anywhere: it opens, or it is a WeightsError, never another exception."""
    name = data.draw(st.sampled_from(sorted(sound)))
    content = bytearray(sound[name])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    path = tmp_path / name
    path.write_bytes(content)
    try:
        opened = read(
            path,
            {"safetensors": "safetensors", "gguf": "gguf", "pt": "torch", "npz": "npz"}[name.split(".")[1]],
        )
        for tensor in opened.values():
            tensor.sum()
    except WeightsError as error:
        assert "\n" not in str(error)
