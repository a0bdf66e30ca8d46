"""Cases whose oracle was run elsewhere: a small file of inputs and outputs, its source named, weights made from names.

    check/fixtures/<name>.safetensors   tensors `in.<input>`, `out.logits`, `out.features.<modality>`,
                                        `out.predictions.<name>`, `out.generated`
        metadata: source, revision, config (JSON, null when the layout has none), shapes (JSON {name: shape}),
                  file (name of the weights file to write), entry (key inside a torch file),
                  ties (JSON {name: name}: tensors that repeat another, as tied ones do in the official file),
              gains (JSON {name: factor}: weights that are larger, of layers that divide what they give),
                  made (JSON {input: shape}: inputs that are `randomise.values(input, shape)` and so are not stored)

`write` is for the script that runs the oracle; `fixture_case` is for the evidence.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.check import randomise
from polymodal.check.record import Case, Expected, Shapes, Size
from polymodal.weights.flax_file import save_flax

FOLDER = Path(__file__).parent / "fixtures"


def write(
    name: str,
    *,
    about: Mapping[str, str],
    config: Any,
    shapes: Shapes,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    folder: Path = FOLDER,
) -> Path:
    """Store what an oracle gave.  about: source, revision, file, entry ("" for none), made."""
    from safetensors.torch import save_file

    tensors = {f"in.{key}": value.contiguous() for key, value in inputs.items()}
    tensors |= {f"out.{key}": value.contiguous() for key, value in outputs.items()}
    made = {"config": json.dumps(config), "shapes": json.dumps({key: list(shape) for key, shape in shapes.items()})}
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, metadata={**about, **made})
    return path


def fixture_case(name: str, fixture: str, **options: Any) -> Case:
    """The case of `check/fixtures/<fixture>.safetensors`; options: fields of Expected to add (call, options)."""
    about, _ = read(fixture)

    def make(folder: Path) -> Expected:
        about, tensors = read(fixture)
        weights = official_weights(about)
        config = json.loads(about["config"])
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        store(weights, folder / about["file"], about.get("entry", ""))
        given = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
        given |= {key: randomise.values(key, shape) for key, shape in json.loads(about.get("made", "{}")).items()}
        features = {key[13:]: value for key, value in tensors.items() if key.startswith("out.features.")}
        predictions = {key[16:]: value for key, value in tensors.items() if key.startswith("out.predictions.")}
        return Expected(
            inputs=given,
            logits=tensors.get("out.logits"),
            features=features or None,
            predictions=predictions or None,
            generated=tensors.get("out.generated"),
            **options,
        )

    return Case(name=name, make=make, file="" if json.loads(about["config"]) is not None else about["file"])


def counted_case(name: str, fixture: str, *, beside: Sequence[str] = (), **items: Sequence[int]) -> Case:
    """A stored case whose rows are each given alone too.

    items: tensor -> how many items each row has.  beside: tensors of which each row has its own.  The first row is
    generated from, without what stands beside.
    """
    about, tensors = read(fixture)
    stored = {each[3:]: x for each, x in tensors.items() if each.startswith("in.")}
    stored |= {each: randomise.values(each, shape) for each, shape in json.loads(about["made"]).items()}
    alone = []
    for row in range(len(stored["input_ids"])):
        own = {each: stored[each].split(list(counts))[row] for each, counts in items.items()}
        given = {"input_ids": unpadded(tensors, row), **{each: x for each, x in own.items() if len(x)}}
        alone.append((row, given | {each: stored[each][row : row + 1] for each in beside}))
    prompt = {each: x for each, x in alone[0][1].items() if each not in beside}
    return fixture_case(name, fixture, alone=tuple(alone), prompt=prompt)


def unpadded(stored: Mapping[str, Tensor], row: int) -> Tensor:
    """The ids of one row of a fixture's batch without their padding, int64 [1, T]."""
    return stored["in.input_ids"][row][stored["in.attention_mask"][row].bool()][None]


def official_weights(about: Mapping[str, str]) -> dict[str, Tensor]:
    """The random weights of a fixture, by its metadata."""
    weights = randomise.state(json.loads(about["shapes"]))
    weights |= {name: weights[name] * factor for name, factor in json.loads(about.get("gains", "{}")).items()}
    ties = json.loads(about.get("ties", "{}"))
    return weights | {name: weights[original] for name, original in ties.items()}


def fixture_source(fixture: str) -> str:
    """Source and revision of a fixture, for `Evidence.oracle`."""
    about, _ = read(fixture)
    return f"{about['source']} @ {about['revision']}"


def fixture_size(fixture: str, variant: str, parameters: int, source: str) -> Size:
    """A published size whose key list a fixture's metadata carries under `published_shapes`."""

    def shapes() -> Shapes:
        return {name: tuple(shape) for name, shape in json.loads(read(fixture)[0]["published_shapes"]).items()}

    return Size(variant=variant, shapes=shapes, source=source, parameters=lambda: parameters)


def read(fixture: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors."""
    from safetensors import safe_open

    with safe_open(FOLDER / f"{fixture}.safetensors", framework="pt") as file:
        return dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def store(weights: Mapping[str, Tensor], path: Path, entry: str) -> None:
    """Write weights as the official file does."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(dict(weights), path)
        return
    if path.suffix == ".msgpack":
        save_flax(weights, path)
        return
    if path.suffix == ".npz":
        arrays: Any = {name: x.numpy() for name, x in weights.items()}
        np.savez(path, **arrays)
        return
    whole: Any = dict(weights)
    for part in reversed(entry.split(".") if entry else []):
        whole = {part: whole}
    torch.save(whole, path)


def write_sizes(name: str, sizes: Mapping[str, Shapes], source: str, folder: Path = FOLDER) -> Path:
    """Store key lists of published sizes, {variant: {name: shape}}, compressed; for `packed_size`."""
    from safetensors.torch import save_file

    packed = {}
    for variant, shapes in sizes.items():
        text = json.dumps({key: list(shape) for key, shape in shapes.items()})
        packed[variant] = torch.frombuffer(bytearray(zlib.compress(text.encode(), 9)), dtype=torch.uint8)
    path = folder / f"{name}.safetensors"
    save_file(packed, path, metadata={"source": source})
    return path


def packed_size(fixture: str, stored: str, parameters: int, variant: str = "") -> Size:
    """A published size whose key list `write_sizes` stored; parameters: as the official code counts them.

    variant: its name, where several share the list.
    """

    def shapes() -> Shapes:
        text = zlib.decompress(read(fixture)[1][stored].numpy().tobytes())
        return {name: tuple(shape) for name, shape in json.loads(text).items()}

    return Size(
        variant=variant or stored, shapes=shapes, source=read(fixture)[0]["source"], parameters=lambda: parameters
    )
