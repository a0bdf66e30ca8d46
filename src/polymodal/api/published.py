"""`pm.load(folder)`: a checkpoint as its authors or the transformers library saved it, recognised at any size.

    config.json (or the shapes of the tensors) -> systems with a matching checkpoint format
    -> the one that matches best -> its model_spec(config) -> built on the meta device -> names and shapes checked
    -> each tensor copied into its parameter -> Model

What fits no system, or several equally well, is refused with what was looked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal import systems
from polymodal.api.code import code_of, system_file
from polymodal.api.paths import is_weights_file, require_no_adapter
from polymodal.checkpoints.gguf import is_gguf
from polymodal.checkpoints.gguf_files import GGUFFiles
from polymodal.checkpoints.record import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    ModelSpec,
    understood,
    with_own_head,
)
from polymodal.errors import ConfigError, WeightsError
from polymodal.fields import returned
from polymodal.systems import System, Variant
from polymodal.weights.config_limits import config_limits
from polymodal.weights.placement import Placement

if TYPE_CHECKING:
    from torch import Tensor, nn

    from polymodal.api.model import Model
    from polymodal.weights.keytable import KeyTable

CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a folder was recognised as.  files: those it was recognised by, where they are more than its own.  code:
    the user's file of the system, None for one of the catalogue."""

    system: System
    format: CheckpointFormat
    config: Mapping[str, Any]
    files: CheckpointFiles | None = None
    code: Path | None = None


def is_published(path: Path) -> bool:
    """A folder with a config.json or weights, or a weights file; one that polymodal saved if it came from such."""
    from polymodal.api import folder

    if os.path.isdir(path):
        return not (path / folder.RECORD).is_file() or "config" in folder.record_of(path)
    return is_weights_file(path)


def files_at(path: Path) -> CheckpointFiles:
    """The files of a published checkpoint; of llama.cpp's they are what its metadata says."""
    return GGUFFiles.at(path) if is_gguf(path) else CheckpointFiles(path)


def recognise(path: Path, system: str | None = None, name: str | None = None) -> Found:
    """Which system a published folder or file is.  system: the one to read it as (an id or a file), when several share
    its format.  name: of the repository that the folder is a copy of, where it is not the folder's own.

    Raises WeightsError when nothing fits or several fit equally well.
    """
    from polymodal.api import folder

    if (path / folder.RECORD).is_file():
        with understood(str(path / folder.RECORD)):
            return _saved(path, system)
    with understood(str(path)):
        files = files_at(path)
        config = config_of(files) if path.is_dir() or isinstance(files, GGUFFiles) else {}
    pool = systems.candidates(config) if system is None else [named(system)]
    with understood(f"{path}: config.json" if config else str(path), config):
        found = _best(path, config, pool, system, name)
    return replace(found, files=files, code=None if system is None else system_file(system))


def config_of(files: CheckpointFiles) -> dict[str, Any]:
    """The config.json; with the name of the model's class, which LLaMA2-Accessory keeps in a meta.json beside it."""
    config = files.json(CONFIG)
    if not config or "model_type" in config or "architectures" in config or "llama_type" in config:
        return config
    name = files.json("meta.json").get("llama_type")
    return config if name is None else {**config, "llama_type": name}


def _best(path: Path, config: Mapping[str, Any], pool: list[System], system: str | None, name: str | None) -> Found:
    """The system and format that fit a folder best; WeightsError where there is none, or more than one."""
    found = _by_config(config, pool) if config else _by_shapes(path, pool)
    if not found:
        require_no_adapter(path)
        beside = path.is_file() and (path.parent / CONFIG).is_file()
        hint = f"; {CONFIG} lies beside it, so load the folder {path.parent}" if beside else ""
        raise WeightsError(f"{path} matches no known checkpoint format{_looked_for(config, pool, system)}{hint}")
    if len(found) > 1:  # several read it; the one that released it under this name goes first
        release = name or path.absolute().name
        found = [(score + 10 * any(_is_release(variant, release) for variant in each.system.variants), each)
                 for score, each in found]  # fmt: skip
    best = max(score for score, _ in found)
    first = [each for score, each in found if score == best]
    names = sorted({each.system.id for each in first})
    if len(names) > 1:
        raise WeightsError(
            f"{path} fits {len(names)} systems equally well: {', '.join(names)}; say which, as in "
            f"pm.load(folder, system='{names[0]}')"
        )
    return first[0]


def _is_release(variant: Variant, name: str) -> bool:
    """Whether a variant's repository is called so, whoever owns it."""
    return variant.repository is not None and variant.repository.name.partition("/")[2].lower() == name.lower()


def found_of(model: Model) -> Found:
    """What a model was recognised as when it was loaded."""
    assert model.variant.config is not None
    return Found(system=model.system, format=model.system.formats[model.variant.format], config=model.variant.config)


def named(system: str) -> System:
    """The system of an id, or of a user's own file."""
    return systems.find(system)[0] if system.endswith(".py") else systems.get(system)


def _saved(path: Path, system: str | None) -> Found:
    """What polymodal noted when it saved the folder; system: the caller's, where that is not of the catalogue."""
    from polymodal.api import folder

    record = folder.record_of(path)
    if system is not None:
        read, code = named(system), system_file(system)
    else:
        code = code_of(record, path)
        read = systems.get(record["system"]) if code is None else named(str(code))
    for format in read.formats:
        if format.name == record.get("layout") and isinstance(record["config"], dict):
            return Found(system=read, format=format, config=record["config"], code=code)
    format_name = record.get("layout")
    raise WeightsError(
        f"{path / folder.RECORD} names a checkpoint format that {read.id} does not read: {format_name!r}"
    )


def _by_config(config: Mapping[str, Any], pool: list[System]) -> list[tuple[int, Found]]:
    return [
        (score, Found(system=system, format=format, config=config))
        for system in pool
        for format in system.formats
        if (score := int(format.matches(config)))
    ]


def _by_shapes(path: Path, pool: list[System]) -> list[tuple[int, Found]]:
    from polymodal.weights.folder import weights_in

    found: list[tuple[int, Found]] = []
    shapes: dict[tuple[str, ...], Mapping[str, Any]] = {}
    problem: WeightsError | None = None
    for system in pool:
        for format in system.formats:
            if format.infer is None:
                continue
            if format.entry not in shapes:
                try:
                    tensors = weights_in(path, format.entry)
                except WeightsError as error:  # tensors may be nested under another key of the file
                    problem = problem or error
                    shapes[format.entry] = {}
                    continue
                shapes[format.entry] = {name: tensors.shape(name) for name in tensors}
            config = format.infer(shapes[format.entry]) if shapes[format.entry] else None
            if config is not None:
                score = int(format.matches(config)) or 1
                found.append((score, Found(system=system, format=format, config=config)))
    if problem is not None and not any(shapes.values()):
        nothing = "" if path.is_file() else f"no polymodal.json, no {CONFIG}, and "
        raise WeightsError(f"{path} is not a model: {nothing}{problem}") from problem
    return found


def _looked_for(config: Mapping[str, Any], pool: list[System], system: str | None) -> str:
    if system is not None:
        formats = "; ".join(format.name for each in pool for format in each.formats)
        return f" of {system}: it reads {formats or 'no published checkpoint format'}"
    if not config:
        return f": it has no {CONFIG}, and its tensors are those of no official file"
    kind = f"model_type {config.get('model_type')!r}, architectures {config.get('architectures')}"
    if (absent := _absent(config)) is not None:
        return f": {CONFIG} says {kind}, which is {absent}; that system is not here"
    near = sorted(
        f"{format.name} ({each.id})"
        for each in pool
        for format in each.formats
        if config.get("architectures") and format.matches({**config, "architectures": None})
    )
    read = f"of that model_type it reads {', '.join(near)}" if near else "`polymodal systems` lists what there is"
    return f": {CONFIG} says {kind}; {read}"


# Systems that are not here, by words of a config.json that could be taken for one of those that are.
ABSENT = {
    "flamingo": "Otter's Flamingo",
    "qwen": "the first Qwen with text alone",
}


def _absent(config: Mapping[str, Any]) -> str | None:
    return ABSENT.get(str(config.get("model_type")))


def variant_of(path: Path, found: Found, name: str | None = None) -> Variant:
    """The folder as a variant of its system; nothing is built, so its parameters are not counted."""
    from polymodal.api import folder

    if name is None and (path / folder.RECORD).is_file():
        name = str(folder.record_of(path)["variant"])
    return Variant(name=name or path.absolute().name, parameters=0, config=found.config,
                   format=found.system.formats.index(found.format))  # fmt: skip


def check_config(path: Path, system: str | None, where: str) -> None:
    """Raises WeightsError unless some system (or this one) reads a checkpoint with this config.json and packing.

    where: "hub owner/repository@revision".  ConfigError for a repository of differences to other weights.
    """
    from polymodal.weights.quantised import method_of, quantisation_of

    config = CheckpointFiles(path.parent).json(path.name)
    pool = systems.candidates(config) if system is None else [named(system)]
    by_shapes = system is None or any(format.infer is not None for each in pool for format in each.formats)
    if not _by_config(config, pool) and not (by_shapes and "model_type" not in config):
        raise WeightsError(f"{where} matches no known checkpoint format{_looked_for(config, pool, system)}")
    for variant in (each for system in pool for each in system.variants):
        if variant.repository is not None and where.startswith(f"hub {variant.repository.name}@"):
            variant.require_whole(where)
    if (settings := quantisation_of(config)) is not None:
        method_of(settings, where)


def open_folder(path: Path, found: Found, placement: Placement, name: str | None = None) -> tuple[Variant, LoadedModel]:
    """Build what the folder holds, fill it strictly, and join processor and tokenizer where their files are there.

    name: of the variant, where it is not the folder's own.
    """
    for variant in found.system.variants:
        if _is_release(variant, name or path.absolute().name):
            variant.require_whole(str(path))
    with understood(f"{path}: config.json", found.config):
        return _opened(path, found, placement, name)


def _opened(path: Path, found: Found, placement: Placement, name: str | None) -> tuple[Variant, LoadedModel]:
    from polymodal.nn.quantise import quantised_numbers
    from polymodal.weights.load import CopyDiffers

    model_spec, files = found.format.model_spec(found.config), found.files or files_at(path)
    try:
        module = fill(found, files, model_spec, placement)
    except CopyDiffers:  # what the file holds counts, whatever the config says of ties
        found = replace(found, config=with_own_head(found.config))
        model_spec = found.format.model_spec(found.config)
        module = fill(found, files, model_spec, placement)
    module.eval()
    parameters = sum(p.numel() for p in module.parameters()) + quantised_numbers(module)
    return replace(variant_of(path, found, name), parameters=parameters), assembled(files, model_spec, module)


def fill(found: Found, files: CheckpointFiles, model_spec: ModelSpec, placement: Placement) -> nn.Module:
    """A module with the folder's weights; raises WeightsError, before memory is taken, unless all of them fit."""
    from torch import nn

    from polymodal.api import folder
    from polymodal.weights.load import load_module

    format, path = found.format, files.folder

    def build() -> nn.Module:
        # Sizes that describe no module are found out here, on the meta device.
        with understood(f"{format.name}: config.json", found.config):
            return returned(model_spec.build(), nn.Module, f"{format.name}: build")

    def prepare(module: nn.Module) -> None:
        if placement.quantise is not None:
            quantise(module, model_spec, path, placement.quantise)

    saved = (path / folder.RECORD).is_file()
    if saved:
        folder.check_hashes(path)
    tensors, tables = tensors_of(found, files, model_spec)
    device, dtype = placement.chosen(tensors)
    module = load_module(build, tensors, tables, dtype=dtype, device=device, prepare=prepare, mmap=placement.mmap)
    if saved:
        folder.fill_extra(path, module)
    return module


def tensors_of(
    found: Found, files: CheckpointFiles, model_spec: ModelSpec
) -> tuple[Mapping[str, Tensor], Sequence[KeyTable] | None]:
    """The tensors of a folder, read when asked for, and spellings of their names; None: they are the module's own."""
    from polymodal.api import folder
    from polymodal.weights.build import build_empty
    from polymodal.weights.quantised import quantisation_of, unquantised, without_spare_biases

    format, path = found.format, files.folder
    if (path / folder.RECORD).is_file() and folder.has_own_names(path):
        return folder.own_tensors(path), None
    tensors = files.tensors(format.entry) if format.gather is None else format.gather(files)
    tensors = unquantised(tensors, quantisation_of(found.config, path))
    tensors = without_spare_biases(tensors, model_spec.keys, lambda: build_empty(model_spec.build).state_dict())
    return tensors, model_spec.keys


def quantise(module: nn.Module, model_spec: ModelSpec, path: Path, kind: str) -> None:
    """Make the linears of the backbone int8 or int4; ConfigError for a model that has none."""
    from polymodal.nn.quantise import quantise_linears

    prefixes = [part.prefix for part in model_spec.parts if part.slot == "backbone"]
    if not sum(quantise_linears(module.get_submodule(prefix), kind) for prefix in prefixes):
        raise ConfigError(f"{path} has no language model with linears to quantise; load it without quantise")


def assembled(files: CheckpointFiles, model_spec: ModelSpec, module: nn.Module) -> LoadedModel:
    """The module with what the files beside it allow: chat, classify and embed need a tokenizer."""
    if not files.folder.is_dir() and not isinstance(files, GGUFFiles):
        return LoadedModel(model=module, processor=None)
    if model_spec.assemble is None or (model_spec.tokenizer and files.lacks_tokenizer()):
        found = LoadedModel(model=module, processor=None)
    else:
        with understood(f"{files.folder}: what its tokenizer or preprocessor files say"):
            found = returned(model_spec.assemble(module, files), LoadedModel, "assemble")
    # A model that ends by ids of its own writes by rules of its own, in published generation too.
    if model_spec.ends is not None:
        return replace(found, ends=model_spec.ends)
    return replace(found, ends=ends(files), settings=files.json("generation_config.json"))


def ends(files: CheckpointFiles) -> tuple[tuple[int, ...], int | None]:
    """The ids that end an answer and the id that pads it, as generation_config.json or config.json say."""
    config = files.json(CONFIG)
    said = files.json("generation_config.json") or {**(config.get("text_config") or {}), **config}
    eos = said.get("eos_token_id")
    many = [token for token in (eos if isinstance(eos, list) else [eos]) if token is not None]
    most = config_limits().ids
    for token in (*many, said.get("pad_token_id")):
        if token is not None and (type(token) is not int or abs(token) > most):
            raise ConfigError(f"{files.folder}: eos_token_id and pad_token_id must be numbers, found {token!r:.80}")
    return tuple(many), said.get("pad_token_id")
