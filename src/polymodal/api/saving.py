"""`Model.save`: a loaded model as a folder that `pm.load` reads, and of a published checkpoint what else read that.

    refused before anything is written: adapters, quantised weights, parameters that are not those that were loaded
    published checkpoint  ->  its names, formats and files (weights/published_names.py, weights/checkpoint_files.py)
                          ->  its small files; config.json with the dtype that is written, without a quantisation
    another system        ->  the module's own names; of a user's system file a copy of the file goes with them

Trap: the tensors that the model has no use for, and the small files, are read from the folder it was loaded from, which
must still be there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.api import code, folder, published
from polymodal.checkpoints.gguf_files import GGUFFiles
from polymodal.errors import ConfigError, WeightsError
from polymodal.nn.fuse import split_state
from polymodal.nn.quantise import is_quantised
from polymodal.weights.adapter_config import CONFIG as ADAPTER
from polymodal.weights.checkpoint_files import WeightsFile, files_of, read_from, write_files
from polymodal.weights.export import save_safetensors
from polymodal.weights.load import fitting
from polymodal.weights.placement import stored_dtype
from polymodal.weights.published_names import PublishedTensors, published_tensors
from polymodal.weights.quantised import BESIDE as QUANTISATION_FILES

if TYPE_CHECKING:
    from torch import Tensor

    from polymodal.api.model import Model
    from polymodal.weights.tensors import Shape

BESIDE = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".vocab")
_INSTEAD = "; to keep these weights all the same, torch.save(model.module.state_dict(), file)"
_DTYPE, _QUANTISATION = ("dtype", "torch_dtype"), ("quantization_config", "compression_config", "quantization")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be written.  config: the one of the record, and of config.json where there is one."""

    files: list[WeightsFile]
    tensors: PublishedTensors
    config: Mapping[str, Any]


def save(model: Model, target: Path) -> Path:
    """Write the folder; see `Model.save`.  Raises ConfigError or WeightsError before anything is changed."""
    state = state_of(model)
    record: dict[str, Any] = {"system": model.system.id, "variant": model.variant.name}
    if model.path is None or _is_of_own_names(model):
        return folder.write(target, lambda draft: _write_own(model, state, record, draft))
    try:
        plan = plan_of(model, state)
    except WeightsError as problem:
        raise WeightsError(f"{model.name} cannot be saved: {problem}{_INSTEAD}") from problem
    return folder.write(target, lambda draft: _write_published(model, plan, record, draft))


def state_of(model: Model) -> dict[str, Tensor]:
    """The module's tensors, under the names that were loaded.  Raises ConfigError for what cannot be loaded again."""
    if model.system.is_agent:
        raise ConfigError(f"{model.name} has no weights to save")
    if is_quantised(model.module):
        raise ConfigError("a model with quantised weights cannot be saved; load it without quantise and save that")
    state = split_state(model.module, model.loaded)
    if any(".adapters." in name for name in state.keys() - model.loaded.keys()):
        raise ConfigError(f"{model.name} has a LoRA; merge_lora(model.module), or save_adapter(), before save()")
    changed = _changed({name: tuple(x.shape) for name, x in state.items()}, model.loaded)
    if changed:
        raise ConfigError(f"{model.name} cannot be saved: {changed}, so pm.load could not build it again{_INSTEAD}")
    empty = next((name for name, x in state.items() if x.is_meta), None)
    if empty is not None:
        raise ConfigError(f"{model.name} cannot be saved: {empty!r} has no values (it is on the meta device)")
    return state


def _changed(now: Mapping[str, Shape], loaded: Mapping[str, Shape]) -> str:
    """The first parameter that is not as it was loaded, in words; "" when all are."""
    for name in (*loaded, *now):
        before, after = loaded.get(name), now.get(name)
        if before != after:
            was = "is new" if before is None else f"had shape {before} when it was loaded"
            return f"{name!r} {was}" + ("" if before is None else f" and has {after} now" if after else " and is gone")
    return ""


def _is_of_own_names(model: Model) -> bool:
    """Whether it came from a folder of the first format whose files a published layout does not hold."""
    assert model.path is not None
    if not (model.path / folder.RECORD).is_file() or not folder.has_own_names(model.path):
        return False
    return model.system.formats[model.variant.format].gather is not None


def plan_of(model: Model, state: Mapping[str, Tensor]) -> Plan:
    """What a published checkpoint's files are now.  Raises WeightsError when it cannot be told."""
    path = model.path
    assert path is not None
    if not path.exists():
        raise WeightsError(f"{path}, from which it was loaded and which holds its small files, is not there any more")
    found = published.found_of(model)
    files, spec = published.files_at(path), found.format.model_spec(found.config)
    source, tables = published.tensors_of(found, files, spec)
    shapes = {name: tuple(x.shape) for name, x in state.items()}
    if tables is None:
        table = spec.keys[0]
        source = dict(table.inverse().apply(state))
        written = [WeightsFile(path=Path(folder.WEIGHTS), format="safetensors", names={name: name for name in source})]
    else:
        written = files_of(source, path, one_file=found.format.one_file)
    table, report = fitting(spec.keys, source, shapes)
    now = stored_dtype(state)
    dtype = None if now == stored_dtype(source) else str(now).removeprefix("torch.")
    return Plan(files=written, tensors=published_tensors(state, source, table, report),
                config=adjusted(found.config, dtype))  # fmt: skip


def adjusted(config: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    """A config for plain weights: no quantisation, and this dtype (None: as it is) wherever it names one."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name in _QUANTISATION:
            continue
        if isinstance(value, Mapping):
            value = adjusted(value, dtype)
        found[name] = dtype if dtype is not None and name in _DTYPE and isinstance(value, str) else value
    return found


def _write_own(model: Model, state: Mapping[str, Tensor], record: dict[str, Any], draft: Path) -> None:
    if model.path is not None:
        record = record | {"layout": model.system.formats[model.variant.format].name, "config": model.variant.config}
        _copy_beside(model.path, draft)
    save_safetensors(state, draft / folder.WEIGHTS)
    if model.code is not None:
        record = record | {"code": code.kept(model.code, draft)}
    folder.write_record(draft, record, [Path(folder.WEIGHTS)])
    if model.path is not None:
        _as_first_format(draft)


def _as_first_format(draft: Path) -> None:
    """The weights of a published system under our names are the first format's."""
    record = folder.record_of(draft)
    first = {**record, "format": 1, "sha256": record["sha256"][folder.WEIGHTS]}
    (draft / folder.RECORD).write_text(json.dumps(first, indent=2) + "\n", encoding="utf-8")


def _write_published(model: Model, plan: Plan, record: dict[str, Any], draft: Path) -> None:
    assert model.path is not None
    hashed = [each.path for each in plan.files]
    write_files(plan.files, plan.tensors.tensors, draft)
    if plan.tensors.extra:
        save_safetensors(plan.tensors.extra, draft / folder.EXTRA)
        hashed.append(Path(folder.EXTRA))
    files = published.files_at(model.path)
    if model.path.is_dir():
        _copy_beside(model.path, draft)
    if isinstance(files, GGUFFiles):
        files.write(draft)
    if (draft / published.CONFIG).is_file() or isinstance(files, GGUFFiles):
        (draft / published.CONFIG).write_text(json.dumps(plan.config, indent=2) + "\n", encoding="utf-8")
    if model.code is not None:
        record = record | {"code": code.kept(model.code, draft)}
    layout = model.system.formats[model.variant.format].name
    folder.write_record(draft, record | {"layout": layout, "config": plan.config}, hashed)
    _require_readable(model, draft)


def _require_readable(model: Model, draft: Path) -> None:
    """Raises WeightsError unless the draft is read as what the model was loaded as."""
    found = published.recognise(draft)
    spec = found.format.model_spec(found.config)
    source, tables = published.tensors_of(found, published.files_at(draft), spec)
    fitting(spec.keys if tables is None else tables, source, model.loaded)
    for path in read_from(source):
        if not path.is_relative_to(draft):
            raise WeightsError(f"{model.name} cannot be saved: its config has {path} read beside it{_INSTEAD}")


def _copy_beside(source: Path, target: Path) -> None:
    """Everything of a published folder and of its folders that is neither weights nor an index of them."""
    for path in sorted([*source.glob("*"), *source.glob("*/*")]):
        inside = path.relative_to(source)
        skipped = inside.name in (folder.RECORD, ADAPTER, *QUANTISATION_FILES) or path.name.endswith(".index.json")
        hidden = inside.parts[0].startswith(".") or (path.parent != source and (path.parent / folder.RECORD).is_file())
        if path.suffix not in BESIDE or skipped or hidden or not path.is_file():
            continue
        copy = target / inside
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
