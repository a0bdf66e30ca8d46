"""llama.cpp's files as published checkpoints: a language model's .gguf, alone or with its mmproj*.gguf.

    metadata of the file(s) -> the config.json that transformers would have written (`gguf_config.py`)
    names of the tensors    -> those of transformers (`gguf_names.py`)
    so the systems that read the published checkpoint read these files through the same parsers and key tables

Read are language models of the architectures llama (Mistral too) and qwen2, LLaVA 1.5 (llama with projector "mlp") and
Qwen2-VL (qwen2vl with projector "qwen2vl_merger"); everything else is refused by its name.

Traps: a repository often holds the same model in several precisions, of which none is chosen; files cut by gguf-split
are named ...-00001-of-00003.gguf.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from polymodal.checkpoints import gguf_names
from polymodal.checkpoints.gguf_config import ADVICE, llava_vision, qwen2_vl_vision, text_config
from polymodal.errors import WeightsError
from polymodal.weights.derived import converted
from polymodal.weights.read import TensorFile, read_gguf

ARCHITECTURES = ("llama", "qwen2", "qwen2vl")
PROJECTORS = {"mlp": "llama", "qwen2vl_merger": "qwen2vl"}
"""Kinds of connector, and the architecture of the language model each belongs to."""
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
PLAIN = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.npz")


@dataclass(frozen=True)
class GGUFCheckpoint:
    """The files of one model.  text: the language model.  vision: the mmproj, None without one."""

    text: TensorFile
    vision: TensorFile | None = None

    def __post_init__(self) -> None:
        """Raises WeightsError for an architecture or a kind of projector that is not read."""
        arch, known = self.architecture, ", ".join(ARCHITECTURES)
        if arch not in ARCHITECTURES:
            raise WeightsError(f"{self.text.path}: the GGUF architecture {arch!r} is not read ({known} are); {ADVICE}")
        if self.vision is None:
            if arch == "qwen2vl":
                raise WeightsError(f"{self.text.path} is the language half of Qwen2-VL; load the folder that holds its "
                                   "mmproj*.gguf too")  # fmt: skip
            return
        kind, belongs = self.projector, PROJECTORS.get(self.projector)
        if belongs is None:
            known = ", ".join(PROJECTORS)
            raise WeightsError(f"{self.vision.path}: the projector_type {kind!r} is not read ({known} are); {ADVICE}")
        if belongs != arch:
            raise WeightsError(f"{self.vision.path}: the projector {kind!r} belongs to the architecture {belongs!r}, "
                               f"{self.text.path.name} is of {arch!r}; {ADVICE}")  # fmt: skip

    @property
    def architecture(self) -> str:
        return str(self.text.metadata.get("general.architecture"))

    @property
    def projector(self) -> str:
        """The kind of connector, "" without an mmproj."""
        said = self.vision.metadata if self.vision is not None else {}
        return str(said.get("clip.projector_type") or said.get("clip.vision.projector_type") or "")

    @property
    def tokens(self) -> list[str]:
        """The vocabulary, empty for a file without one."""
        return list(self.text.metadata.get("tokenizer.ggml.tokens") or ())

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json would say, and under "gguf" what only these files say."""
        said = self.text.metadata
        first = said.get("tokenizer.ggml.bos_token_id") if said.get("tokenizer.ggml.add_bos_token", True) else None
        begin = self.tokens[first] if type(first) is int and 0 <= first < len(self.tokens) else None
        own = {"gguf": {"chat_template": said.get("tokenizer.chat_template"), "begin": begin}}
        text = text_config(self.text, self.architecture)
        if self.vision is None:
            return text | own
        if self.projector == "mlp":
            llava = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": text}
            return llava | llava_vision(self.vision) | {"image_token_index": self.placeholder(text["vocab_size"])} | own
        ids = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
        found = {key: self.tokens.index(name) for key, name in ids.items() if name in self.tokens}
        return text | {"vision_config": qwen2_vl_vision(self.vision, text["hidden_size"])} | found | own

    def placeholder(self, vocab_size: int) -> int:
        """The id of `<image>`; of a vocabulary without it, the first one behind."""
        return self.tokens.index("<image>") if "<image>" in self.tokens else len(self.tokens) or vocab_size

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors under the names that the published checkpoint has, each read when it is asked for."""
        text = self.config.get("text_config") or self.config
        heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
        table = gguf_names.text_keys(heads, kv_heads, interleaved=self.architecture == "llama")
        if self.vision is None:
            return converted(self.text, table)
        width = self.vision.metadata["clip.vision.embedding_length"]
        down = self.vision.infos.get("v.blk.0.ffn_down.weight")
        swapped = down is not None and down.shape[-1] == width
        if self.projector == "mlp":
            table = table.prefixed(target="language_model.") + gguf_names.llava_keys(swapped)
        else:
            table += gguf_names.qwen2_vl_keys(swapped)
        return converted(_joined(self.text, self.vision), table)


def is_gguf(path: Path) -> bool:
    """Whether a file, or a folder without weights of another format, is a model of llama.cpp."""
    if path.is_file():
        return path.suffix.lower() == ".gguf"
    others = (next(path.glob(pattern), None) for pattern in PLAIN)
    return path.is_dir() and next(path.glob("*.gguf"), None) is not None and not any(others)


def open_gguf(path: Path) -> GGUFCheckpoint:
    """The model at a file (alone) or in a folder (with its mmproj); raises WeightsError for one that is not read."""
    files = [path] if path.is_file() else sorted(path.glob("*.gguf"))
    opened = [_whole(file) for file in files if (shard := SHARD.fullmatch(file.name)) is None or int(shard[2]) == 1]
    texts = [file for file in opened if file.metadata.get("general.architecture") != "clip"]
    visions = [file for file in opened if file.metadata.get("general.architecture") == "clip"]
    for kind, found in (("models", texts), ("mmproj files", visions)):
        if len(found) > 1:
            names = ", ".join(file.path.name for file in found[:4])
            raise WeightsError(f"{path} holds {len(found)} GGUF {kind} ({names}); name the file, or keep one of them")
    if visions and not texts:
        raise WeightsError(f"{visions[0].path} is an mmproj, one half of a model; load a folder with both halves")
    if not texts:
        raise WeightsError(f"{path} holds later parts of a GGUF file and not the first; name or fetch ...-00001-of-...")
    return GGUFCheckpoint(texts[0], visions[0] if visions else None)


def _whole(first: Path) -> TensorFile:
    """A file, with the parts that gguf-split cut off it."""
    file, shard = read_gguf(first), SHARD.fullmatch(first.name)
    if shard is None:
        return file
    names = [f"{shard[1]}-{number:05d}-of-{shard[3]}.gguf" for number in range(2, int(shard[3]) + 1)]
    return _joined(file, *(read_gguf(first.with_name(name)) for name in names))


def _joined(*parts: TensorFile) -> TensorFile:
    """Several files as one, with the metadata of the first; WeightsError when two hold the same tensor."""
    homes = {name: part for part in parts for name in part.infos}
    if len(homes) < sum(map(len, parts)):
        raise WeightsError(f"{parts[0].path} and the files that belong to it hold a tensor twice; download them again")
    infos = {name: part.infos[name] for name, part in homes.items()}
    return TensorFile(parts[0].path, "gguf", infos, lambda name: homes[name][name], parts[0].metadata)
