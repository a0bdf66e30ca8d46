"""What a path that was given for a model is, where it is none: one line that names it and says what to use.

a file of another framework, an archive, an unfinished download, a config, an adapter's weights
a folder with whole weights and an adapter beside them
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from polymodal.errors import ConfigError, WeightsError
from polymodal.weights.adapter_config import CONFIG as ADAPTER
from polymodal.weights.adapter_config import holds_adapter
from polymodal.weights.adapter_files import WEIGHTS as ADAPTER_WEIGHTS

SUFFIXES = (".safetensors", ".gguf", ".pt", ".pth", ".bin", ".ckpt", ".npz")
"""Endings of weights files that are read, in small letters."""
_USE = "expected a folder or a file ending in " + ", ".join(SUFFIXES)
_KINDS = {
    (".h5", ".keras", ".pb", ".tflite"): "a file of TensorFlow",
    (".msgpack",): "a file of Flax",
    (".onnx",): "an ONNX graph",
    (".mlmodel", ".mlpackage"): "a Core ML model",
    (".engine", ".plan", ".trt"): "a TensorRT engine",
    (".pdparams",): "a file of Paddle",
    (".llamafile", ".ggml"): "a file of an old llama.cpp",
    (".pkl", ".pickle", ".joblib"): "a Python pickle, which can run code",
}
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".7z", ".nemo", ".mar")
_UNFINISHED = (".part", ".crdownload", ".incomplete", ".aria2", ".tmp", ".lock")


def as_path(given: Any, what: str) -> Path:
    """A path as a caller gave it; raises ConfigError, naming the argument, for what is none."""
    if not isinstance(given, str | os.PathLike) or not str(given).strip() or "\0" in str(given):
        raise ConfigError(f"{what}: expected a path, found {given!r}")
    return Path(given)


def is_weights_file(path: Path) -> bool:
    """Whether a file has the ending of one that is read."""
    return path.suffix.lower() in SUFFIXES and os.path.isfile(path)


def require_model(path: Path) -> None:
    """Raises WeightsError for a file that is there and is no model; what is not there is somebody else's concern."""
    if path.suffix == ".py" or not os.path.isfile(path):  # False too for a name that is too long for a path
        return
    if path.name in ADAPTER_WEIGHTS or path.name == ADAPTER:
        raise WeightsError(f"{path} is of a PEFT adapter, not a model; load its folder {path.parent}, which loads its "
                           "base too, or pm.load(base, adapters=[folder])")  # fmt: skip
    if is_weights_file(path):
        return
    suffix = path.suffix.lower()
    for suffixes, kind in _KINDS.items():
        if suffix in suffixes:
            raise WeightsError(f"{path} is {kind} and is not read; {_USE}")
    if suffix in _ARCHIVES:
        raise WeightsError(f"{path} is an archive; unpack it and load the folder or the weights file inside")
    if suffix in _UNFINISHED:
        raise WeightsError(f"{path} is an unfinished download; fetch the file again")
    if suffix == ".json" or path.name.startswith("tokenizer"):
        raise WeightsError(f"{path} is a small file of a checkpoint, not its weights; load the folder {path.parent}")
    raise WeightsError(f"{path} is no weights file; {_USE}")


def require_no_adapter(path: Path) -> None:
    """Raises ConfigError for a weights file that holds low-rank changes of a model alone."""
    from polymodal.weights.folder import weights_in

    if not path.is_file() or path.suffix.lower() == ".gguf":
        return
    with contextlib.suppress(WeightsError):
        names = list(weights_in(path, ("", "state_dict")))
        if names and all(".lora" in name or "lora_" in name or name.endswith(".alpha") for name in names):
            raise ConfigError(f"{path} holds an adapter and no model ({names[0]!r}); adapters are read as folders in "
                              "PEFT's layout: adapter_config.json beside adapter_model.safetensors")  # fmt: skip


def require_one_meaning(folder: Path, adapters: Collection[Path]) -> None:
    """Raises ConfigError for whole weights with an adapter beside them, unless that adapter is attached too."""
    beside = folder.is_dir() and (folder / ADAPTER).is_file() and not holds_adapter(folder)
    if not beside or not any((folder / name).is_file() for name in ADAPTER_WEIGHTS):
        return
    if folder.resolve() not in {each.resolve() for each in adapters}:
        raise ConfigError(
            f"{folder} holds whole weights and an adapter beside them; pm.load(folder, adapters=[folder]) attaches it "
            f"(--adapter), without its {ADAPTER} the weights are loaded alone"
        )
