"""`pm.load(folder)`: a checkpoint as its authors or the transformers library saved it, recognised at any size.

    config.json (or the shapes of the tensors) -> the systems whose layout matches -> the one that matches best
    -> Layout.open(config) -> build -> strict load -> Model

What fits no system, or several equally well, is refused with what was looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.errors import ConfigError, WeightsError
from polymodal.layouts.record import Assembled, Files, Layout, Opened, understood
from polymodal.systems import _system
from polymodal.systems._system import LoadOptions, System, Variant

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a folder was recognised as."""

    system: System
    layout: Layout
    config: Mapping[str, Any]


def is_published(place: Path) -> bool:
    """A folder with a config.json or weights, or a weights file; one that polymodal saved if it came from such."""
    from polymodal.api import folder

    if place.is_dir():
        return not (place / folder.RECORD).is_file() or "config" in folder.record_of(place)
    return place.is_file() and place.suffix in (".safetensors", ".pt", ".pth", ".bin", ".npz")


def recognise(place: Path, system: str | None = None) -> Found:
    """Which system a published folder or file is.  system: the one to read it as, when several share its layout.

    Raises WeightsError when nothing fits or several fit equally well.
    """
    from polymodal.api import folder

    if (place / folder.RECORD).is_file():
        return _saved(place)
    pool = _system.every() if system is None else [_system.get(system)]
    config = Files(place).json(CONFIG) if place.is_dir() else {}
    found = _by_config(config, pool) if config else _by_shapes(place, pool)
    if not found:
        beside = place.is_file() and (place.parent / CONFIG).is_file()
        hint = f"; {CONFIG} lies beside it, so load the folder {place.parent}" if beside else ""
        raise WeightsError(f"{place} is of no layout known{_looked_for(config, pool, system)}{hint}")
    best = max(score for score, _ in found)
    first = [each for score, each in found if score == best]
    names = sorted({each.system.id for each in first})
    if len(names) > 1:
        raise WeightsError(
            f"{place} fits {len(names)} systems equally well: {', '.join(names)}; say which, as in "
            f"pm.load(folder, system='{names[0]}')"
        )
    return first[0]


def _saved(place: Path) -> Found:
    """What polymodal noted when it saved the folder."""
    from polymodal.api import folder

    record = folder.record_of(place)
    system = _system.get(record["system"])
    for layout in system.layouts:
        if layout.name == record.get("layout") and isinstance(record["config"], dict):
            return Found(system=system, layout=layout, config=record["config"])
    layout_name = record.get("layout")
    raise WeightsError(f"{place / folder.RECORD} names a layout that {system.id} does not read: {layout_name!r}")


def _by_config(config: Mapping[str, Any], pool: list[System]) -> list[tuple[int, Found]]:
    return [
        (score, Found(system=system, layout=layout, config=config))
        for system in pool
        for layout in system.layouts
        if (score := int(layout.matches(config)))
    ]


def _by_shapes(place: Path, pool: list[System]) -> list[tuple[int, Found]]:
    from polymodal.weights.folder import weights_in

    found: list[tuple[int, Found]] = []
    shapes: dict[tuple[str, ...], Mapping[str, Any]] = {}
    problem: WeightsError | None = None
    for system in pool:
        for layout in system.layouts:
            if layout.infer is None:
                continue
            if layout.entry not in shapes:
                try:
                    tensors = weights_in(place, layout.entry)
                except WeightsError as error:  # tensors may lie at another place inside the file
                    problem = problem or error
                    shapes[layout.entry] = {}
                    continue
                shapes[layout.entry] = {name: tensors.shape(name) for name in tensors}
            config = layout.infer(shapes[layout.entry]) if shapes[layout.entry] else None
            if config is not None:
                score = int(layout.matches(config)) or 1
                found.append((score, Found(system=system, layout=layout, config=config)))
    if problem is not None and not any(shapes.values()):
        nothing = "" if place.is_file() else f"no polymodal.json, no {CONFIG}, and "
        raise WeightsError(f"{place} is no model: {nothing}{problem}") from problem
    return found


def _looked_for(config: Mapping[str, Any], pool: list[System], system: str | None) -> str:
    if system is not None:
        layouts = "; ".join(layout.name for each in pool for layout in each.layouts)
        return f" of {system}: it reads {layouts or 'no published layout'}"
    if not config:
        return f": it has no {CONFIG}, and its tensors are those of no official file"
    kind = f"model_type {config.get('model_type')!r}, architectures {config.get('architectures')}"
    near = sorted(
        f"{layout.name} ({each.id})"
        for each in pool
        for layout in each.layouts
        if config.get("architectures") and layout.matches({**config, "architectures": None})
    )
    read = f"of that model_type it reads {', '.join(near)}" if near else "`polymodal systems` lists what there is"
    return f": {CONFIG} says {kind}; {read}"


def variant_of(place: Path, found: Found, name: str | None = None) -> Variant:
    """The folder as a variant of its system; nothing is built, so its parameters are not counted."""
    from polymodal.api import folder

    if name is None and (place / folder.RECORD).is_file():
        name = str(folder.record_of(place)["variant"])
    return Variant(name=name or place.absolute().name, parameters=0, config=found.config,
                   layout=found.system.layouts.index(found.layout))  # fmt: skip


def check_config(path: Path, system: str | None, where: str) -> None:
    """Raises WeightsError unless some system (or this one) reads a checkpoint with this config.json."""
    pool = _system.every() if system is None else [_system.get(system)]
    config = Files(path.parent).json(path.name)
    by_shapes = any(layout.infer is not None for each in pool for layout in each.layouts)
    if not _by_config(config, pool) and not (by_shapes and "model_type" not in config):
        raise WeightsError(f"{where} is of no layout known{_looked_for(config, pool, system)}")


def open_folder(
    place: Path, found: Found, options: LoadOptions, name: str | None = None
) -> tuple[Variant, Assembled]:
    """Build what the folder holds, fill it strictly, and join processor and tokenizer where their files are there.

    name: of the variant, where it is not the folder's own.
    """
    import torch

    from polymodal.api import folder

    opened = found.layout.opened(found.config)
    if (place / folder.RECORD).is_file():
        module = opened.build().to(getattr(torch, options.dtype))
        folder.fill(place, module)
    else:
        module = fill(place, found.layout, opened, options)
    variant = replace(variant_of(place, found, name), parameters=sum(p.numel() for p in module.parameters()))
    module.to(device=torch.device(options.device)).eval()
    return variant, assembled(place, opened, module)


def fill(place: Path, layout: Layout, opened: Opened, options: LoadOptions) -> nn.Module:
    """A module with the folder's weights; raises WeightsError, with nothing half loaded, unless all of them fit."""
    import torch

    from polymodal.weights.folder import fitting, weights_in, without_random
    from polymodal.weights.load import load_into

    # First on the meta device: sizes that describe no module are found out before anything is read or allocated.
    with understood(f"{layout.name}: config.json"), torch.device("meta"):
        targets = opened.build().state_dict().keys()
    gathered: Mapping[str, Tensor]
    gathered = weights_in(place, layout.entry) if layout.gather is None else layout.gather(Files(place))
    table = fitting(opened.keys, gathered.keys(), targets)
    if table.new:
        module = opened.build()
    else:
        with without_random():
            module = opened.build()
    load_into(module, gathered, table, dtype=getattr(torch, options.dtype))
    return module


def assembled(place: Path, opened: Opened, module: nn.Module) -> Assembled:
    """The module with what the files beside it allow: chat, classify and embed need a tokenizer."""
    files = Files(place)
    if not place.is_dir():
        return Assembled(model=module, processor=None)
    if opened.assemble is None or (opened.tokenizer and not files.has("tokenizer.json")):
        found = Assembled(model=module, processor=None)
    else:
        with understood(f"{place}: what its tokenizer or preprocessor files say"):
            found = opened.assemble(module, files)
    # A model that ends by ids of its own writes by rules of its own, in published generation too.
    if opened.ends is not None:
        return replace(found, ends=opened.ends)
    return replace(found, ends=ends(place), settings=files.json("generation_config.json"))


def ends(place: Path) -> tuple[tuple[int, ...], int | None]:
    """The ids that end an answer and the id that pads it, as generation_config.json or config.json say."""
    files = Files(place)
    config = files.json(CONFIG)
    said = files.json("generation_config.json") or {**(config.get("text_config") or {}), **config}
    eos = said.get("eos_token_id")
    many = eos if isinstance(eos, list) else [] if eos is None else [eos]
    for token in (*many, said.get("pad_token_id")):
        if token is not None and type(token) is not int:
            raise ConfigError(f"{place}: eos_token_id and pad_token_id must be numbers, found {token!r}")
    return tuple(many), said.get("pad_token_id")
