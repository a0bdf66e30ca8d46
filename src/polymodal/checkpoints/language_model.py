"""Language models of any family, alone in a MultimodalLM: the layouts of the text-only systems.

    config.json -> text_model_spec(config, chat format) -> MultimodalLM without encoders; names on disk are the family's

Several systems publish in the layout of LlamaForCausalLM.  Each scores a config by what its releases say of themselves;
any other folder is a plain language model (systems/language_model.py), with its own chat template or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from polymodal.backbones import hf_text
from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints.record import CheckpointFiles, CheckpointFormat, LoadedModel, ModelSpec, Part, hf
from polymodal.data.processor import Processor
from polymodal.data.template import Template
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import MultimodalLM

if TYPE_CHECKING:
    from polymodal.data.tokenizer import Tokenizer

Config = Mapping[str, Any]


def text_model_spec(
    config: Config,
    template: Template | Callable[[CheckpointFiles, Tokenizer], Template],
    *,
    add_special_tokens: bool = False,
) -> ModelSpec:
    """A language model's config -> the model; raises ConfigError for options that are not supported.

    template: for folders without a chat template of their own, or what makes it; add_special_tokens: as for
    `CheckpointFiles.chat_template`.
    """
    text = hf_text.parse_config(config)
    decoder = text.config
    if not isinstance(decoder, DecoderConfig):
        raise ConfigError(f"model_type {config.get('model_type')!r}: expected a decoder, found an encoder-decoder")

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer()
        default = template if isinstance(template, Template) else template(files, tokenizer)
        chat_format = files.chat_template(tokenizer, add_special_tokens=add_special_tokens) or default
        processor = Processor(tokenizer=tokenizer, template=chat_format, max_length=decoder.max_length)
        return LoadedModel(model=module, processor=processor)

    return ModelSpec(
        build=lambda: MultimodalLM({}, {}, decoder.build(), {}),
        keys=tuple(table.prefixed("", "backbone.") for table in text.keys),
        parts=(
            Part(slot="backbone", name=f"{decoder.depth} blocks of width {decoder.width}", prefix="backbone",
                 input=f"[B, T, {decoder.width}]", output=f"[B, T, {decoder.vocab_size}]"),
        ),
        assemble=assemble,
    )  # fmt: skip


def llama_layout(template: Callable[[Config], Template], score: Callable[[Config], int]) -> CheckpointFormat:
    """The layout of LlamaForCausalLM for one of the systems that share it; the highest score reads a folder."""
    named = hf("llama", "LlamaForCausalLM")
    return CheckpointFormat(
        name="transformers LlamaForCausalLM",
        matches=replace(named, score=lambda config: score(config) if named(config) else 0),
        parse_config=lambda config: text_model_spec(config, template(config)),
    )


def named_after(*names: str) -> Callable[[Config], int]:
    """Scores configs whose `_name_or_path` names the release of a system, 3; others 1, for `system=` alone."""

    def score(config: Config) -> int:
        source = str(config.get("_name_or_path") or "").lower()
        return 3 if any(name in source for name in names) else 1

    return score


def llama(width: int, depth: int, heads: int, ffn_width: int, **more: Any) -> dict[str, Any]:
    """The config.json of a LlamaForCausalLM; what is not said is the library's default."""
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": width,
            "num_hidden_layers": depth, "num_attention_heads": heads, "num_key_value_heads": heads,
            "intermediate_size": ffn_width, **more}  # fmt: skip
