"""Headers, indexes and the small files beside weights that claim what is not there; files that are none."""

import json
import os
import socket
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from weight_writers import gguf, npy, npz, quick, record, safetensors, string

import polymodal as pm
from polymodal.checkpoints.gguf import open_gguf
from polymodal.errors import PolymodalError, WeightsError
from polymodal.weights.adapter_files import read_adapter
from polymodal.weights.describe import describe
from polymodal.weights.folder import weights_in
from polymodal.weights.limits import VARIABLE
from polymodal.weights.patterns import matches
from polymodal.weights.quantised import quantisation_of, unquantised
from polymodal.weights.raw import RawFile
from polymodal.weights.read import read, read_gguf, read_npz, read_safetensors

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
EIGHT = bytes(8)
F8 = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}
SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "two tensors in one place": (safetensors({"a": ONE, "b": ONE}, EIGHT), "overlap"),
    "a thousand tensors in one place": (safetensors({str(i): ONE for i in range(1000)}, EIGHT), "overlap"),
    "a hole": (safetensors({"a": ONE, "b": F8 | {"data_offsets": [12, 20]}}, bytes(20)), "safetensors"),
    "sides that give nothing": (
        safetensors({"a": ONE, "b": ONE | {"shape": [0, 2**60], "data_offsets": [8, 8]}}, EIGHT), "'b' lies outside"),
    "sides that wrap round": (safetensors({"a": ONE | {"shape": [2**33, 2**33]}}, EIGHT), "safetensors"),
    "a side that is a text": (safetensors({"a": ONE | {"shape": ["2"]}}, EIGHT), "'a' lies outside"),
    "a side that is a fraction": (safetensors({"a": ONE | {"shape": [2.0]}}, EIGHT), "safetensors"),
    "offsets that are no numbers": (safetensors({"a": ONE | {"data_offsets": [None, 8]}}, EIGHT), "'a' lies outside"),
    "offsets that are three": (safetensors({"a": ONE | {"data_offsets": [0, 8, 8]}}, EIGHT), "'a' lies outside"),
    "a number that is none": (safetensors(b'{"a": {"shape": [NaN]}}'), "NaN"),
    "half a letter": (safetensors(rb'{"\ud800": 1}'), "UTF-8"),
    "lists in lists": (safetensors(b"[" * 5_000_000), "deeper than 64"),
    "a number of a million digits": (safetensors(b'{"a": ' + b"9" * 1_000_000 + b"}"), "digits"),
    "four million values": (safetensors(b"[" + b"0," * 4_000_000 + b"0]"), "more values"),
    "metadata of numbers": (safetensors({"__metadata__": {"a": 1}, "a": ONE}, EIGHT), "safetensors"),
    "a header of 2 ** 63 bytes": (safetensors({}, length=2**63), "claims"),
}  # fmt: skip


def entry(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


GGUF: dict[str, tuple[bytes, str]] = {
    "two tensors in one place": (gguf([], [record("a", [8]), record("b", [8])], bytes(32)), "claim 64 bytes"),
    "a thousand in one place": (gguf([], [record(str(i), [8]) for i in range(1000)], bytes(32)), "claim 32000"),
    "a tensor twice": (gguf([], [record("a", [1]), record("a", [1])], bytes(32)), "appears twice"),
    "an entry twice": (gguf([entry("a", 4, bytes(4)), entry("a", 4, bytes(4))]), "appears twice"),
    "sides that give nothing": (gguf([], [record("a", [2**62, 0])], bytes(32)), "has the shape"),
    "sides that wrap round": (gguf([], [record("a", [2**33, 2**33])], bytes(32)), "ends at byte"),
    "sides of 2 ** 64": (gguf([], [record("a", [2**64 - 1] * 4)], bytes(32)), "has the shape"),
    "an offset of 2 ** 64": (gguf([], [record("a", [1], offset=2**64 - 1)], bytes(32)), "ends at byte"),
    "no alignment": (gguf([entry("general.alignment", 4, bytes(4))]), "alignment is 0"),
    "an alignment of 2 ** 31": (gguf([entry("general.alignment", 4, b"\0\0\0\x80")]), "alignment is"),
    "an alignment that is a text": (gguf([entry("general.alignment", 8, string("32"))]), "alignment is"),
    "an alignment that is true": (gguf([entry("general.alignment", 7, b"\x01")]), "alignment is True"),
    "a name of 2 ** 40 bytes": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**40), "the file ends"),
    "a list of 2 ** 63 numbers": (gguf([entry("a", 9, array(4, 2**63))]), "does not fit"),
    "lists of lists of lists": (gguf([entry("a", 9, array(9, 1) * 6)]), "unknown type"),
    "four million small numbers": (gguf([entry("a", 9, array(0, 4_000_000, bytes(4_000_000)))]), "more entries"),
    "four million truths": (gguf([entry("a", 9, array(7, 4_000_000, bytes(4_000_000)))]), "more entries"),
    "a list of empty lists": (
        gguf([entry("a", 9, array(9, 400_000, array(9, 0) * 400_000))]) + bytes(9_000_000), ""),
    "a million tensors": (
        b"GGUF" + struct.pack("<IQQ", 3, 10**6, 0) + b"".join(record(f"{i:07}", [0]) for i in range(90_000)),
        "more tensors or entries"),
    "no dimensions of a block": (gguf([], [record("a", [], kind=2)], bytes(32)), ""),
}  # fmt: skip
HEADER = "{'descr': %r, 'fortran_order': False, 'shape': %s, }"
NPZ: dict[str, tuple[bytes, str]] = {
    "a void of a gigabyte": (npy(HEADER % ("|V1000000000", "(1,)")), "claims"),
    "nothing, a million million times": (npy(HEADER % ("|V0", "(1000000000000,)")), "claims"),
    "empty texts, a million million times": (npy(HEADER % ("<U0", "(1000000000000,)")), "claims"),
    "sides that give nothing": (npy(HEADER % ("<f4", f"(0, {2**62})")), "claims"),
    "a side below nothing": (npy(HEADER % ("<f4", "(-1,)"), EIGHT), "claims"),
    "a header that calculates": (npy(HEADER % ("<f4", "(9**9**9,)")), "npz"),
    "a header that calls": (npy("__import__('os').system('true')"), "npz"),
    "a header of brackets": (npy("(" * 9_000), "npz"),
    "a header of minus signs": (npy("-" * 9_000 + "1"), "npz"),
    "a header that is too long": (npy("{" + " " * 20_000 + "}"), "npz"),
    "records": (npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }"), "objects"),
    "objects": (npy(HEADER % ("|O", "(1,)")), "objects"),
    "no header": (b"\x93NUMPY", "npz"),
    "another version": (b"\x93NUMPY\x09\x00" + bytes(100), "version"),
}  # fmt: skip
READERS: dict[str, tuple[dict[str, tuple[bytes, str]], Callable[[Path], Any]]] = {
    "safetensors": (SAFETENSORS, read_safetensors), "gguf": (GGUF, read_gguf), "npz": (NPZ, read_npz),
}  # fmt: skip


@pytest.mark.parametrize("format", READERS)
def test_headers(attack, tmp_path: Path, format: str) -> None:
    cases, reader = READERS[format]
    for name, (data, why) in cases.items():
        path = tmp_path / f"m.{format}"
        path.write_bytes(data)
        if format == "npz":
            npz({"a.npy": data}, path)
        with quick(attack, name):
            if why:
                with pytest.raises(WeightsError, match=why):
                    reader(path)
            else:
                for tensor in reader(path).values():
                    tensor.sum()


def test_npz_archives(attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = npy(HEADER % ("<f4", "(2,)"), EIGHT)
    many = npz({f"{i}.npy": one for i in range(5_000)}, tmp_path / "many.npz")
    with quick(attack, "five thousand members", seconds=4):
        assert len(read_npz(many)) == 5_000
    odd = {
        "v.npy": npy(HEADER % ("|V2", "(3,)"), bytes(6)),
        "t.npy": npy(HEADER % ("<U2", "(1,)"), EIGHT),
        "w.npy": one,
    }
    with quick(attack, "arrays that hold no numbers"):
        found = read_npz(npz(odd, tmp_path / "odd.npz"))
        assert found["w"].shape == (2,)
        for name in "vt":
            with pytest.raises(WeightsError, match=f"tensor '{name}'.*holds no numbers"):
                found[name]
    monkeypatch.setenv(VARIABLE, "bytes=1e6,tensors=1000")
    with quick(attack, "more members"), pytest.raises(WeightsError, match="more members than the limit of 1,000"):
        read_npz(many)
    zeros = npy(HEADER % ("<f4", "(500000,)"), bytes(2_000_000))
    with quick(attack, "zeros"), pytest.raises(WeightsError, match="unpack to 2,000,"):
        read_npz(npz({"w.npy": zeros}, tmp_path / "zeros.npz", zipfile.ZIP_DEFLATED))
    for name, members in {"two of one name": {"a.npy": one, "a": one}, "no array": {"a.txt": b"hello"}}.items():
        with quick(attack, name), pytest.raises(WeightsError, match="npz"):
            read_npz(npz(members, tmp_path / "a.npz"))


@pytest.fixture
def special(tmp_path: Path) -> dict[str, Callable[[Path], None]]:
    """How to make what is no file at a path."""
    (tmp_path / "real").mkdir()
    os.mkfifo(tmp_path / "real" / "fifo")

    def bound(path: Path) -> None:
        here = os.getcwd()
        os.chdir(path.parent)  # the address of a socket has 108 bytes at most
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.chdir(here)

    return {
        "pipe": os.mkfifo, "socket": bound, "folder": Path.mkdir,
        "link to a pipe": lambda path: path.symlink_to(tmp_path / "real" / "fifo"),
        "link to a device": lambda path: path.symlink_to("/dev/zero"),
        "link to itself": lambda path: path.symlink_to(path),
        "link to nothing": lambda path: path.symlink_to(tmp_path / "nothing"),
    }  # fmt: skip


NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
         "model.pt", "model.ckpt", "model.npz", "model.gguf")  # fmt: skip


def test_files_that_are_none(attack, tmp_path: Path, special) -> None:
    for kind, make in special.items():
        for name in NAMES:
            folder = tmp_path / f"{kind} {name}"
            folder.mkdir()
            make(folder / name)
            if name == "model.gguf":
                asked = [lambda folder=folder: open_gguf(folder)]
            else:
                asked = [lambda folder=folder: weights_in(folder), lambda folder=folder: pm.load(folder)]
            asked += [lambda path=folder / name: describe(path), lambda path=folder / name: pm.load(path)]
            for ask in asked:
                with quick(attack, f"{name} is a {kind}"), pytest.raises(PolymodalError) as refusal:
                    ask()
                assert "defect" not in str(refusal.value)


def test_shards_and_halves_that_are_none(attack, tmp_path: Path, special) -> None:
    for kind, make in special.items():
        folder = tmp_path / kind
        folder.mkdir()
        save_file({"a": torch.ones(2)}, folder / "one.safetensors")
        make(folder / "two.safetensors")
        for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
            (folder / index).write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
        with quick(attack, f"a shard is a {kind}"), pytest.raises(WeightsError, match=r"two\.safetensors"):
            read_safetensors(folder / "model.safetensors.index.json")
        halves = folder / "halves"
        halves.mkdir()
        (halves / "text.gguf").write_bytes(gguf([entry("general.architecture", 8, string("llama"))]))
        make(halves / "mmproj.gguf")
        with quick(attack, f"an mmproj is a {kind}"), pytest.raises(WeightsError, match="mmproj"):
            open_gguf(halves)
        adapter = folder / "adapter"
        adapter.mkdir()
        make(adapter / "adapter_config.json")
        with quick(attack, f"an adapter's config is a {kind}"), pytest.raises(WeightsError, match="adapter_config"):
            read_adapter(adapter)
        weights = folder / "weights"
        weights.mkdir()
        (weights / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        make(weights / "adapter_model.safetensors")
        with quick(attack, f"an adapter's weights are a {kind}"), pytest.raises(WeightsError, match="adapter_model"):
            read_adapter(weights)
        make(weights / "quant_config.json")
        with quick(attack, f"a quantisation is a {kind}"), pytest.raises(WeightsError, match="quant_config"):
            quantisation_of({}, weights)


def test_a_file_that_becomes_another(attack, tmp_path: Path) -> None:
    """Between opening and reading a pipe may take the place of the file."""
    for format in ("safetensors", "torch"):
        path = tmp_path / f"m.{format}"
        save_file({"w": torch.ones(3)}, path) if format == "safetensors" else torch.save({"w": torch.ones(3)}, path)
        found, raw = read(path, format), RawFile(path)
        path.unlink()
        os.mkfifo(path)
        for ask in (partial(found.__getitem__, "w"), partial(found.map, "w"), partial(raw.read, 0, torch.uint8, (1,))):
            with quick(attack, format), pytest.raises(WeightsError, match="pipe"):
                ask()


def sparse(path: Path, start: bytes, size: int) -> Path:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path


def test_files_of_holes(attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terabyte that takes no place: refused as a download that never ended, and harmless where that is allowed."""
    size = 1 << 40
    count = (size - 4096) // 4
    text = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    whole = sparse(tmp_path / "w.safetensors", safetensors(text + b" " * (4096 - 8 - len(text))), size)
    starts = {"gguf": b"GGUF" + struct.pack("<IQQ", 3, 2**38, 0), "torch": b"\x80\x02", "npz": b"PK\x03\x04"}
    files = [("safetensors", whole), *((form, sparse(tmp_path / form, start, size)) for form, start in starts.items())]
    for form, path in files:
        with quick(attack, form), pytest.raises(WeightsError, match=r"on the disk.*download it again.*sparse="):
            read(path, form)
    monkeypatch.setenv(VARIABLE, "sparse=1e12")
    with quick(attack, "allowed"):
        assert read_safetensors(whole).shape("w") == (count,) and describe(whole).parameters == count
    for form, path in files[1:]:
        with quick(attack, f"{form}, allowed"), pytest.raises(WeightsError):
            read(path, form)
    listed = sparse(tmp_path / "list.gguf", gguf([entry("a", 9, array(0, 2**39))])[: 24 + 9 + 4 + 12], size)
    header_only = sparse(tmp_path / "m.safetensors", struct.pack("<Q", 2**39), size)
    for path, reader in ((listed, read_gguf), (header_only, read_safetensors)):
        with quick(attack, path.name), pytest.raises(WeightsError, match="limit of"):
            reader(path)


INDEXES = {
    "names itself": {"a": "model.safetensors.index.json"},
    "names a folder": {"a": ".."}, "names nothing": {"a": ""}, "names a path": {"a": "x/one.safetensors"},
    "names an absolute path": {"a": "/etc/passwd"}, "holds a NUL": {"a": "one\0.safetensors"}, "is a list": [1],
    "names a number": {"a": 5}, "names a list": {"a": ["one.safetensors"]}, "names null": {"a": None},
    "is long": {str(i): "one.safetensors" for i in range(300_000)}, "is a text": "one.safetensors",
    "names a shard of a long name": {"a": "x" * 5000}, "names what is not there": {"b": "one.safetensors"},
}  # fmt: skip


def test_indexes(attack, tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    for name, said in INDEXES.items():
        index.write_text(json.dumps({"weight_map": said, "metadata": 7}))
        with quick(attack, name), pytest.raises(WeightsError):
            read_safetensors(index)
    for said in ("[]", "5", '"x"', '{"weight_map": {"a": "one.safetensors"}, "metadata": [1]}'):
        index.write_text(said)
        with quick(attack, said):
            read_safetensors(index)


def packed(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): value for name, value in tensors.items()}


WORDS, HALVES = torch.zeros(4, 8, dtype=torch.int32), torch.ones(1, 8).half()
GPTQ = packed(a__qweight=WORDS, a__qzeros=torch.zeros(1, 1, dtype=torch.int32), a__scales=HALVES)
FP8 = packed(a__weight=torch.zeros(4, 4, dtype=torch.float8_e4m3fn), a__weight_scale_inv=torch.ones(1, 1))


def four_bits(**state: Any) -> dict[str, torch.Tensor]:
    said = {"shape": [8, 8], "blocksize": 64, "dtype": "float16"} | state
    blob = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
    nested = packed(a__weight__nested_absmax=torch.ones(1), a__weight__nested_quant_map=torch.zeros(256))
    return nested | packed(a__weight=torch.zeros(32, 1, dtype=torch.uint8), a__weight__absmax=torch.zeros(1).byte(),
                           a__weight__quant_map=torch.zeros(16)) | {
        "a.weight.quant_state.bitsandbytes__nf4": blob}  # fmt: skip


QUANTISED: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {
    "blocks of a million million": (FP8, {"quant_method": "fp8", "weight_block_size": [10**12, 10**12]}),
    "blocks of nothing": (FP8, {"quant_method": "fp8", "weight_block_size": [0, 0]}),
    "a block that is a number": (FP8, {"quant_method": "fp8", "weight_block_size": 128}),
    "a block of texts": (FP8, {"quant_method": "fp8", "weight_block_size": ["a", "b"]}),
    "a scale of three dimensions": (FP8 | packed(a__weight_scale_inv=torch.ones(1, 1, 1)), {"quant_method": "fp8"}),
    "three bits": (GPTQ, {"quant_method": "gptq", "bits": 3}),
    "bits that are a list": (GPTQ, {"quant_method": "gptq", "bits": [4]}),
    "words of one dimension": (GPTQ | {"a.qweight": WORDS[0]}, {"quant_method": "gptq", "bits": 4}),
    "scales of another layer": (GPTQ | {"a.scales": torch.ones(1, 3).half()}, {"quant_method": "gptq", "bits": 4}),
    "groups that are not there": (
        GPTQ | {"a.g_idx": torch.full((32,), 99, dtype=torch.int32)}, {"quant_method": "gptq", "bits": 4}),
    "a group index of no dimension": (GPTQ | {"a.g_idx": torch.tensor(3)}, {"quant_method": "gptq", "bits": 4}),
    "awq of no dimension": (GPTQ | {"a.qweight": torch.tensor(3)}, {"quant_method": "awq", "bits": 4}),
    "runs of a million million": (four_bits(blocksize=10**12), {"quant_method": "bitsandbytes"}),
    "runs of nothing": (four_bits(blocksize=0), {"quant_method": "bitsandbytes"}),
    "nested runs of a million million": (
        four_bits(nested_blocksize=10**12, nested_offset=0.0), {"quant_method": "bitsandbytes"}),
    "a shape of a million million": (four_bits(shape=[10**6, 10**6]), {"quant_method": "bitsandbytes"}),
    "a shape below nothing": (four_bits(shape=[-8, -8]), {"quant_method": "bitsandbytes"}),
    "a shape that is a text": (four_bits(shape="8"), {"quant_method": "bitsandbytes"}),
    "groups that are a list": (FP8, {"quant_method": "compressed-tensors", "config_groups": [1]}),
    "a format that is a table": (FP8, {"quant_method": "compressed-tensors", "format": {"a": 1}}),
    "a shape of many sides": (
        packed(a__weight_packed=WORDS, a__weight_scale=HALVES, a__weight_shape=torch.ones(1_000_000)),
        {"quant_method": "compressed-tensors"}),
    "a shape of another layer": (
        packed(a__weight_packed=WORDS, a__weight_scale=HALVES, a__weight_shape=torch.tensor([10**6, 10**6])),
        {"quant_method": "compressed-tensors"}),
}  # fmt: skip


def test_quantised_folders(attack, tmp_path: Path) -> None:
    for name, (tensors, settings) in QUANTISED.items():
        save_file(tensors, tmp_path / "m.safetensors")
        with quick(attack, name):  # refused, or a weight no larger than what is stored
            found = unquantised(read_safetensors(tmp_path / "m.safetensors"), settings)["a.weight"]
            assert found.numel() <= 8 * 4 * 8
    assert attack.refused == len(QUANTISED) - 3
    for said in ("[]", "5", "{", "[" * 100):
        (tmp_path / "quant_config.json").write_text(said)
        with quick(attack, said), pytest.raises(WeightsError, match="quant_config"):
            quantisation_of({}, tmp_path)


PATTERNS = ("(a+)+b", "((((a?)*)*)*)*b", "(.*)*" * 40 + "x", ".*" * 900 + "x", "(((a{1000}){1000}){1000})b",
            "(((){60000}){60000}){60000}x", "(?:(?=.*b).)*" * 20, "(" * 900 + ")" * 900, "(a|a|a)*b", "(a*)*(a*)*\\1",
            "a" * 3000, "[" * 500, "(?i)a", "(?<=a)b", "\\b")  # fmt: skip


def test_patterns_of_adapters(attack, tmp_path: Path) -> None:
    """A name of nine hundred letters would keep Python's own matcher busy for ever."""
    save_file({f"base_model.model.{'a' * 900}.lora_{x}.weight": torch.ones(8, 8) for x in "AB"},
              tmp_path / "adapter_model.safetensors")  # fmt: skip
    for pattern in PATTERNS:
        for said in ({"target_modules": pattern}, {"rank_pattern": {pattern: 4}}, {"alpha_pattern": {pattern: 4}}):
            (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, **said}))
            with quick(attack, pattern):
                read_adapter(tmp_path)


@pytest.mark.parametrize(
    "pattern",
    [r"(.*\.)?layers\.(0|1)\..*", r"^(?!.*visual).*\.(q|k)_proj$", r".*(self_attn\.[qkvo]_proj|mlp\.\w+)", "",
     r"(?:.*?\.)?[^.]+", r"model\.layers\.\d{1,2}\..*", r"a|b", r".*\.(?:[0-9]|1[0-5])\.(?=mlp).*", r"[\w.]+_proj"],
)  # fmt: skip
def test_patterns_mean_what_they_mean_in_python(pattern: str) -> None:
    import re

    for name in ("model.layers.0.self_attn.q_proj", "model.visual.q_proj", "model.layers.12.mlp.up_proj", "layers.1.x",
                 "", "a", "b"):  # fmt: skip
        assert matches(pattern, name) == (re.fullmatch(pattern, name) is not None), name


def test_numbers_of_numpy_are_read_as_they_were(tmp_path: Path) -> None:
    kinds = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in ("f2", "f4", "f8", "i1", "i8", "u1", "?", "c8")}
    np.savez_compressed(tmp_path / "m.npz", **kinds, turned=np.arange(6).reshape(2, 3).T)
    found = read_npz(tmp_path / "m.npz")
    for name, value in kinds.items():
        assert torch.equal(found[name], torch.from_numpy(value)) and found.shape(name) == (2, 3)
    assert found["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
