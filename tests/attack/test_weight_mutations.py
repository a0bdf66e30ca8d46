"""Sound weights files, changed where it hurts: instructions, header fields, shapes, offsets, tables of members.

Each input opens and gives its tensors, or is refused in one line; never another exception, a hang, or more memory than
the file is worth.
"""

import copy
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from polymodal.weights.describe import describe
from polymodal.weights.folder import weights_in
from polymodal.weights.quantised import unquantised
from polymodal.weights.read import read
from polymodal.weights.tensors import TensorFile

BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6)
TENSORS = {
    "a.weight": torch.randn(3, 4),
    "b": torch.randn(5).bfloat16(),
    "n": torch.arange(6).reshape(2, 3),
    "h": torch.randn(2, 8).half(),
    "none": torch.zeros(0, 4),
    "turned": BASE.t(),
    "part": BASE[1:3, 2:5],
}
EXTREMES = (
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**48,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
Random = random.Random
Change = Callable[[bytes, Random], bytes]


def use(opened: TensorFile) -> None:
    """Everything that can be asked of an open file."""
    for name in opened:
        tensor = opened[name]
        assert tuple(tensor.shape) == opened.shape(name)
        out = torch.empty(tensor.shape, dtype=torch.float32)
        opened.read_into(name, out)
        opened.map(name)
    len(unquantised(opened, None))


def bytes_changed(data: bytes, rng: Random) -> bytes:
    """Some bytes anywhere, or the end cut off."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(found))
        found[at] = rng.choice((0, 1, 255, found[at] ^ 1 << rng.randrange(8), rng.randrange(256)))
    return bytes(found[: rng.randrange(len(found))] if rng.random() < 0.15 else found)


def numbers_changed(data: bytes, rng: Random) -> bytes:
    """A field of 2, 4 or 8 bytes becomes an extreme one."""
    found, form = bytearray(data), rng.choice("HIQ")
    size = struct.calcsize(form)
    at = rng.randrange(max(1, len(found) - size))
    found[at : at + size] = struct.pack(f"<{form}", rng.choice(EXTREMES) % 256**size)
    return bytes(found)


INSTRUCTIONS = [op.code.encode("latin-1") for op in pickletools.opcodes]


def pickle_changed(data: bytes, rng: Random) -> bytes:
    """Whole instructions are left out, repeated, swapped, exchanged for others or given other arguments."""
    try:
        marks = [at for _, _, at in pickletools.genops(data)]
    except Exception:  # the second change of one that is not sound any more
        return bytes_changed(data, rng)
    parts = [data[a:b] for a, b in zip(marks, [*marks[1:], len(data)], strict=True)]
    for _ in range(rng.randrange(1, 4)):
        at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(7):
            case 0:
                del parts[at]
                if not parts:
                    return b"."
            case 1:
                parts.insert(other, parts[at])
            case 2:
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                parts[at] = rng.choice(INSTRUCTIONS) + parts[at][1:]
            case 4:
                parts[at : at + 1] = parts[at : at + 1] * rng.choice((2, 50, 1000))
            case 5:
                parts[at] = b"\x8a\x09" + rng.choice(EXTREMES).to_bytes(9, "little")
            case 6:
                parts[at] = b"h" + bytes([rng.randrange(256)])
        if not parts:
            break
    return b"".join(parts)


def json_changed(value: Any, rng: Random) -> Any:
    """One value somewhere in a table becomes another."""
    value = copy.deepcopy(value)
    place, key = None, None
    here = value
    while isinstance(here, dict | list) and here and (place is None or rng.random() < 0.8):
        place, key = here, rng.choice(list(here) if isinstance(here, dict) else range(len(here)))
        here = place[key]
    if place is None:
        return value
    if rng.random() < 0.15:
        del place[key]
    else:
        odd = (
            *EXTREMES,
            -1,
            0.5,
            None,
            True,
            "",
            "x",
            "F64",
            "F8_E4M3",
            "BOOL",
            [],
            {},
            [1, 2],
            [2**40, 0],
            here,
            [here] * 3,
        )
        place[key] = rng.choice(odd)
    return value


def safetensors_changed(data: bytes, rng: Random) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    header = json_changed(json.loads(data[8 : 8 + length]), rng)
    if rng.random() < 0.3:
        header = json_changed(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def member_changed(pattern: str, change: Change) -> Change:
    """Apply a change to a member of an archive."""

    def changed(data: bytes, rng: Random) -> bytes:
        scratch = Path(SCRATCH[0]) / "scratch.zip"
        scratch.write_bytes(data)
        with zipfile.ZipFile(scratch) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        chosen = rng.choice([name for name, _ in members if pattern in name])
        with zipfile.ZipFile(scratch, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for name, content in members:
                if name == chosen:
                    content = change(content, rng)
                if name != chosen or content != b".":
                    archive.writestr(name, content)
        return scratch.read_bytes()

    return changed


def directory_changed(data: bytes, rng: Random) -> bytes:
    """A field in the table of members."""
    at = data.index(b"PK\x01\x02")
    return data[:at] + rng.choice((bytes_changed, numbers_changed))(data[at:], rng)


def stream_changed(data: bytes, rng: Random) -> bytes:
    """One of the five pickles of the older format."""
    starts = [0]
    for _ in range(5):
        for _, _, at in pickletools.genops(data[starts[-1] :]):
            last = at
        starts.append(starts[-1] + last + 1)
    which = rng.choice((2, 3, 3, 3, 4))
    part = pickle_changed(data[starts[which] : starts[which + 1]], rng)
    return data[: starts[which]] + part + data[starts[which + 1] :]


def changed(data: bytes, rng: Random, changes: Sequence[Change]) -> bytes:
    """One change; of what is not sound any more, some bytes."""
    try:
        return rng.choice(changes)(data, rng)
    except Exception:
        return bytes_changed(data, rng)


SCRATCH = [""]
FORMATS: dict[str, tuple[str, tuple[Change, ...]]] = {
    "safetensors": ("safetensors", (safetensors_changed, safetensors_changed, bytes_changed, numbers_changed)),
    "gguf": ("gguf", (bytes_changed, numbers_changed, numbers_changed)),
    "torch": ("torch", (member_changed("data.pkl", pickle_changed), member_changed("data.pkl", pickle_changed),
                        member_changed("", bytes_changed), directory_changed, numbers_changed)),
    "stream": ("torch", (stream_changed, stream_changed, bytes_changed, numbers_changed)),
    "script": ("torch", (member_changed("data.pkl", pickle_changed), member_changed("data.pkl", pickle_changed),
                         directory_changed, bytes_changed)),
    "npz": ("npz", (member_changed("", bytes_changed), member_changed("", numbers_changed), directory_changed,
                    bytes_changed)),
}  # fmt: skip


class Tree(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        self.again = self.first
        self.turned = torch.nn.Parameter(torch.randn(3, 5).t())
        self.sizes = [1, 2, 3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sound")
    SCRATCH[0] = str(folder)
    plain = {name: x.contiguous() for name, x in TENSORS.items()}
    save_file(plain, folder / "safetensors", metadata={"made": "here"})
    held = {"model": TENSORS, "step": 3, "names": ["a", "b"], 7: {"lr": 0.1, "betas": (0.9, 0.99)}}
    torch.save(TENSORS | {"about": held, "shape": BASE.shape, "type": torch.float16}, folder / "torch")
    torch.save(TENSORS | {"about": held}, folder / "stream", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(Tree()), str(folder / "script"))
    np.savez(folder / "n.npz", **{name: x.float().numpy() for name, x in TENSORS.items()})
    (folder / "n.npz").rename(folder / "npz")
    writer = gguf.GGUFWriter(folder / "gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_float32("x", 0.5)
    for name in ("a.weight", "h"):
        writer.add_tensor(name, TENSORS[name].numpy())
    writer.add_tensor("q", gguf.quants.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q4_0),
                      raw_dtype=gguf.GGMLQuantizationType.Q4_0)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {name: (folder / name).read_bytes() for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_files(attack, sound: dict[str, bytes], tmp_path: Path, name: str) -> None:
    format, changes = FORMATS[name]
    path = tmp_path / f"m.{format}"
    path.write_bytes(sound[name])
    use(read(path, format))
    for number, rng in attack.inputs(60):
        data = sound[name]
        for _ in range(rng.choice((1, 1, 2))):
            data = changed(data, rng, changes)
        path.write_bytes(data)
        with attack.one(number, seconds=10, megabytes=200):
            describe(path, format)
            use(read(path, format))


def test_indexes(attack, tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({f"{n}{number}": torch.ones(2) for n in "ab"}, tmp_path / f"{number}.safetensors")
    sound = {
        "metadata": {"total_size": 32},
        "weight_map": {f"{n}{k}": f"{k}.safetensors" for n in "ab" for k in (1, 2)},
    }
    path = tmp_path / "model.safetensors.index.json"
    for number, rng in attack.inputs(100):
        said = json_changed(sound, rng)
        data = json.dumps(said).encode()
        path.write_bytes(data if rng.random() < 0.7 else bytes_changed(data, rng))
        with attack.one(number, seconds=10, megabytes=200):
            use(weights_in(tmp_path))
