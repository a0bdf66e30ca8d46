"""`index`: the index of a folder's media for one model, where it lies, and what tells that the model is still the same.

    $POLYMODAL_HOME/search/<folder>-<digest>/<model>-<digest>.sqlite

Removing that file, or the folder `search`, removes the index; the next search builds it anew.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from polymodal.api.paths import as_path
from polymodal.pipelines.media_index import MediaIndex
from polymodal.weights.cache import home

if TYPE_CHECKING:
    from polymodal.api.model import Model

SAMPLES = 256  # values of each tensor that are read: training, merging and rounding change nearly all of them
SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")
"""Files of a published folder that decide how media become tensors."""


def index(model: Model, folder: str | Path, file: str | Path | None = None) -> MediaIndex:
    """The index of a folder's pictures and sounds; `update()` fills it, `search("a cat on a sofa")` looks into it.

    file: where it lies; by default in the cache folder, one for each folder, model and state of its weights.
    Raises ConfigError for a model that does not embed; `update` and `search` do for a `file` of another model.
    """
    model.require("embed")
    place = as_path(folder, "folder").expanduser()
    owner = f"{model.name} {identity(model)}"
    return MediaIndex(place, model.embed, index_path(place, owner) if file is None else as_path(file, "file"), owner)


def index_path(folder: Path, owner: str) -> Path:
    """Where the index of a folder lies for a model as it is now; owner: its name and identity."""
    name, _, digest = owner.rpartition(" ")
    whole = folder.resolve()
    where = hashlib.sha256(bytes(whole)).hexdigest()[:16]
    return home() / "search" / f"{_plain(whole.name)}-{where}" / f"{_plain(name)}-{digest[:16]}.sqlite"


def identity(model: Model) -> str:
    """Hexadecimal digest of what decides a model's vectors: its name, the names, types and values of its tensors (some
    of each), the settings of its folder, its system file."""
    digest = hashlib.sha256(model.name.encode())
    with torch.inference_mode():
        for name, tensor in model.module.state_dict().items():
            values = tensor.detach().reshape(-1)
            some = values[:: max(1, len(values) // SAMPLES)][:SAMPLES].cpu().contiguous()
            digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
            digest.update(some.view(torch.uint8).numpy().data)
    beside = [] if model.path is None else [model.path / name for name in SETTINGS]
    for path in (*beside, model.code):
        if path is not None and path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _plain(name: str) -> str:
    """A name for people, short and of letters that every disk takes."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name)[:40].strip("-.") or "root"
