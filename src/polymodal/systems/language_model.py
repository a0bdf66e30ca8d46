"""A language model by itself, of a family that is read here: what no published system claims as its own.

    text -> tokens -> LLaMA, Mistral or Qwen2 -> text

Read are folders of the transformers library and llama.cpp's files.  A conversation is written by the chat template that
the files bring along; without one the messages stand one after another, for a model that only continues a text.
Traps: a config says nothing of what the weights were trained for, so Vicuna, Alpaca and differences to be added to
other weights (delta weights) all look like LLaMA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polymodal.checkpoints.gguf_files import text_format
from polymodal.checkpoints.language_model import Config, llama, text_model_spec
from polymodal.checkpoints.record import CheckpointFiles, ConfigMatch
from polymodal.data.chat_formats import plain
from polymodal.data.template import Template
from polymodal.systems import (
    CheckpointFormat,
    DataSource,
    LanguageModeling,
    ModelSpec,
    Repository,
    Stage,
    System,
    Variant,
)

if TYPE_CHECKING:
    from polymodal.data.tokenizer import Tokenizer

FAMILIES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2"}


def score(config: Config) -> int:
    """2: a system that knows a config for its own scores more."""
    named = config.get("architectures") or [name for name, kind in FAMILIES.items() if kind == config.get("model_type")]
    return 2 * int(any(FAMILIES.get(name) == config.get("model_type") for name in named))


def continued(files: CheckpointFiles, tokenizer: Tokenizer) -> Template:
    """No format, behind the special tokens that the tokenizer puts in front of a text."""
    from polymodal.data.chat_template import special_tokens_around

    before, _ = special_tokens_around(files.folder, tokenizer)
    return plain(before[0] if before else None)


def parse_config(config: Config) -> ModelSpec:
    return text_model_spec(config, continued, add_special_tokens=True)


def _delta(name: str, parameters: int, *size: int) -> Variant:
    """A release of Vicuna that is of no use without LLaMA's weights."""
    repository = Repository(name=f"lmsys/{name}", license="Apache-2.0, and LLaMA's")
    return Variant(name=name, parameters=parameters, config=llama(*size, vocab_size=32001), repository=repository,
                   difference_to="LLaMA")  # fmt: skip


SYSTEM = System(
    id="language-model",
    aliases=("language model",),
    year=2023,
    fusion=(),
    assembly="MultimodalLM",
    inputs=("text",),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="transformers LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM",
               matches=ConfigMatch(score=score, model_types=tuple(FAMILIES.values())), parse_config=parse_config),
        text_format(),
    ),
    variants=(
        Variant(name="llama-7b", parameters=6_738_415_616, config=llama(4096, 32, 32, 11008, vocab_size=32000)),
        Variant(name="llama-2-7b", parameters=6_738_415_616,
                config=llama(4096, 32, 32, 11008, vocab_size=32000, rms_norm_eps=1e-5, max_position_embeddings=4096)),
        _delta("vicuna-7b-delta-v0", 6_738_423_808, 4096, 32, 32, 11008),
        _delta("vicuna-13b-delta-v0", 13_015_874_560, 5120, 40, 40, 13824),
    ),
    headline="continues a text, or answers in the format of its own chat template",
    reference="arXiv 2302.13971",
    recipe=(
        Stage(name="pretrain", data=(DataSource(name="text", kind="text"),), objective=LanguageModeling(),
              train=("backbone",)),
    ),
)  # fmt: skip
