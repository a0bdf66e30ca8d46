"""What stands beside the weights of llama.cpp's files: tokenizer, ends of an answer, preprocessing, chat format.

    tokenizer.ggml.*                 -> Tokenizer; ends and padding
    tokenizer.chat_template          -> the chat format, run as any folder's; without one a text is only continued
    clip.vision.image_mean, ...      -> the settings of the picture transform

A tokenizer.json, preprocessor_config.json or generation_config.json beside the file goes first.
Traps: a LLaVA made for llama.cpp has no `<image>` in its vocabulary, which is put behind it here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.checkpoints.gguf import GGUFCheckpoint, open_gguf
from polymodal.checkpoints.language_model import text_model_spec
from polymodal.checkpoints.record import CheckpointFiles, CheckpointFormat, ConfigMatch, ModelSpec
from polymodal.data import chat_formats
from polymodal.data.chat_template import JINJA, ChatTemplate, TemplateSource, chat_template, template_source
from polymodal.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from polymodal.data.tokenizer import Tokenizer

TEMPLATE = "tokenizer.chat_template"
_ENDS = ("eos", "eot", "eom")
TEXT = (["LlamaForCausalLM"], ["MistralForCausalLM"], ["Qwen2ForCausalLM"])


@dataclass(frozen=True)
class GGUFFiles(CheckpointFiles):
    """The files of `model`: what its metadata says, and what lies beside it where `folder` is one and not the file."""

    model: GGUFCheckpoint

    @classmethod
    def at(cls, path: Path) -> GGUFFiles:
        """The model at a .gguf file or in a folder; raises WeightsError unless it is one that is read."""
        return cls(path, open_gguf(path))

    def json(self, name: str) -> dict[str, Any]:
        """A file beside the weights, else what the metadata says; the config is always the metadata's."""
        if name == "config.json":
            return self.model.config
        made = {"generation_config.json": self._generation, "preprocessor_config.json": self._preprocessor}
        found = super().json(name) if self.folder.is_dir() else {}
        return made[name]() if not found and name in made else found

    def tensors(self, entry: Sequence[str] = ("",)) -> Mapping[str, Tensor]:
        return self.model.tensors

    def tokenizer(self, **names: Any) -> Tokenizer:
        """The tokenizer of the files beside, else of the file's own vocabulary, where a LLaVA's gets its `<image>`."""
        if self._beside:
            return super().tokenizer(added=self._added, **names)
        from polymodal.data.gguf_tokenizer import gguf_tokenizer

        return gguf_tokenizer(self.model.text.metadata, added=self._added, **names)

    def chat_template(
        self, tokenizer: Tokenizer, placeholders: Mapping[str, str] | None = None, *, add_special_tokens: bool = True
    ) -> ChatTemplate | None:
        """The format of a chat template beside the weights, else of the one in the metadata."""
        beside = (
            super().chat_template(tokenizer, placeholders, add_special_tokens=add_special_tokens)
            if self.folder.is_dir()
            else None
        )
        text = self._template
        if beside is not None or text is None:
            return beside
        begin = self.model.config["gguf"]["begin"]
        around = ((begin,) if begin is not None and add_special_tokens else (), ())
        source = TemplateSource(text=text, file=TEMPLATE)
        return chat_template(source, self.folder, tokenizer, placeholders or {}, around)

    @property
    def _template(self) -> str | None:
        found = self.model.text.metadata.get(TEMPLATE)
        if found is not None and not isinstance(found, str):
            raise WeightsError(f"{self.model.text.path}: {TEMPLATE} must be a text, found {type(found).__name__}")
        return found

    def lacks_tokenizer(self) -> str | None:
        """Why neither the files beside nor the metadata make a tokenizer, None where one of them does."""
        if self._beside:
            return None
        if "tokenizer.ggml.model" not in self.model.text.metadata:
            return "no tokenizer in its metadata, and no tokenizer.json beside it"
        try:
            self.tokenizer()
        except WeightsError as problem:
            return str(problem)
        return None

    @property
    def _beside(self) -> bool:
        """Whether tokenizer files that are read lie in the folder."""
        return self.folder.is_dir() and super().lacks_tokenizer() is None

    @property
    def _added(self) -> tuple[str, ...]:
        """Tokens that stand behind the vocabulary."""
        return ("<image>",) if self.model.projector == "mlp" and "<image>" not in self.model.tokens else ()

    def write(self, folder: Path) -> None:
        """Write what the metadata holds as the files that a folder of transformers has."""
        tables = {name: self.json(name) for name in ("generation_config.json", "preprocessor_config.json")}
        if not self._beside and self.lacks_tokenizer() is None:
            tokenizer = self.tokenizer()
            roles = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
            named = {role: tokenizer.token(index) for role, index in roles.items() if index is not None}
            begins = self.model.config["gguf"]["begin"] is not None
            tables["tokenizer_config.json"] = {**named, "add_bos_token": begins}
            (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        if self._template is not None and (not self.folder.is_dir() or template_source(self.folder) is None):
            (folder / JINJA).write_text(self._template, encoding="utf-8")
        for name, table in tables.items():
            if table:
                (folder / name).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")

    def _generation(self) -> dict[str, Any]:
        said = self.model.text.metadata
        ends = dict.fromkeys(said[key] for name in _ENDS if (key := f"tokenizer.ggml.{name}_token_id") in said)
        found: dict[str, Any] = {"eos_token_id": list(ends)} if ends else {}
        pad = said.get("tokenizer.ggml.padding_token_id")
        return found if pad is None else found | {"pad_token_id": pad}

    def _preprocessor(self) -> dict[str, Any]:
        if self.model.vision is None:
            return {}
        said = self.model.vision.metadata
        names = {"image_mean": "image_mean", "image_std": "image_std", "min_pixels": "image_min_pixels",
                 "max_pixels": "image_max_pixels"}  # fmt: skip
        found = {name: said[key] for name, own in names.items() if (key := f"clip.vision.{own}") in said}
        # LLaVA's own code and llama.cpp fill a picture up to a square.
        return found | ({"do_pad": True} if self.model.projector == "mlp" else {})


def text_format() -> CheckpointFormat:
    """A language model alone, of any family that is read, with the chat format that its file carries."""
    return CheckpointFormat(
        name="llama.cpp GGUF of a language model",
        matches=ConfigMatch(keys=("gguf",), score=lambda config: 4 * int(config.get("architectures") in TEXT)),
        parse_config=_text_spec,
    )


def _text_spec(config: Mapping[str, Any]) -> ModelSpec:
    said = config["gguf"]
    if not isinstance(said, Mapping):
        raise WeightsError(f"config: 'gguf' must be a table, found {type(said).__name__}")
    return text_model_spec(config, chat_formats.plain(said.get("begin")), add_special_tokens=True)
