"""LLaSM: a language model that follows spoken instructions, through the last states of Whisper's decoder.

Paper: LLaSM: Large Language and Speech Model (arXiv 2308.15930).

    speech -> log-mel of 30 s -> Whisper large-v2, whose decoder reads 64 start tokens [N, 64, 1280]
           -> linear [N, 64, 4096] -> spliced at `<au_patch>` between `<au_start>` and `<au_end>`
           -> Chinese-Llama-2-7b or Baichuan-7B -> text                                             (fusion type C)

Traps: the features are the decoder's, not the encoder's; a recording has 30 seconds at most; prompts are written in
pieces (`checkpoints/linksoul.py`, `checkpoint.py`).
"""

from typing import Any

from polymodal.systems import (
    AdamW,
    CheckpointFormat,
    ConfigMatch,
    DataSource,
    LanguageModeling,
    Repository,
    Stage,
    System,
    Variant,
)
from polymodal.systems.llasm.checkpoint import TOWER, gather, parse_config


def variant(name: str, repository: str, parameters: int, license: str, **more: Any) -> Variant:
    """A published size; its config.json is LLaMA's, and `mm_*`."""
    config = {"model_type": "llaaa", "architectures": ["LlaaaLlamaForCausalLM"], "hidden_size": 4096,
              "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008, "mm_hidden_size": 1280,
              "mm_audio_tower": TOWER, "audio_token_len": 64, "max_position_embeddings": 4096, **more}  # fmt: skip
    return Variant(name=name, parameters=parameters, config=config,
                   repository=Repository(name=f"LinkSoul/{repository}", license=license))  # fmt: skip


SYSTEM = System(
    id="llasm",
    aliases=("LLaSM",),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "audio"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official LlaaaLlamaForCausalLM",
            parse_config=parse_config,
            matches=ConfigMatch(model_types=("llaaa",), architectures=("LlaaaLlamaForCausalLM",)),
            gather=gather,
            one_file=True,
        ),
    ),
    variants=(
        variant("chinese-llama-2-7b", "LLaSM-Cllama2", 8_285_072_128, "Apache-2.0; Llama 2 community",
                vocab_size=32003, rms_norm_eps=1e-5),
        variant("baichuan-7b", "LLaSM-Baichuan", 8_547_216_128, "Apache-2.0; Baichuan-7B community",
                vocab_size=64003, rms_norm_eps=1e-6),
    ),
    headline="follows spoken instructions in Chinese and English without a transcript",
    reference="arXiv 2308.15930",
    recipe=(
        Stage(
            name="align",
            data=(DataSource(name="AISHELL, LibriSpeech, MagicData, Primewords", kind="audio-text pairs"),),
            objective=LanguageModeling(),
            train=("connectors.audio",),
            optimizer=AdamW(),
            start="parts",
            note="transcripts behind a simple instruction; its numbers were not read",
        ),
        Stage(
            name="instruct",
            data=(DataSource(name="LLaSM-Audio-Instructions", kind="conversations", samples=199_000),),
            objective=LanguageModeling(),
            train=("connectors.audio", "backbone"),
            optimizer=AdamW(),
            start="align",
            note="508,000 spoken samples; its numbers were not read",
        ),
    ),
)  # fmt: skip
