"""PandaGPT: one linear from ImageBind to Vicuna, trained on pictures, follows instructions about all six senses.

Paper: PandaGPT: One Model To Instruction-Follow Them All (arXiv 2305.16355).

    picture, video, sound, heat, depth, motion -> ImageBind -> linear [N, 1, D] each, added up -> one placeholder
    "### Human: <Img>" placeholder "</Img> question\\n### Assistant:" -> Vicuna with low-rank paths -> answer  (type C)

Traps: sound enters without ImageBind's scale of 20; `<Img>` is plain text; the begin token is written once by hand and
each piece is tokenised alone; an answer ends with "###", of which only id 2277 is looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.checkpoints import imagebind_llama
from polymodal.data.imagebind_formats import PandaGPTFormat, SharedPlaceholderProcessor
from polymodal.encoders import imagebind_keys
from polymodal.models.imagebind_lm import SummedEmbeddingLM
from polymodal.systems import (
    AdamW,
    Budget,
    CheckpointFiles,
    CheckpointFormat,
    DataSource,
    LanguageModeling,
    Linear,
    LoadedModel,
    LoRAConfig,
    ModelSpec,
    Repository,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.weights.keytable import KeyTable

PLACEHOLDER = -1
"""Written where the vector of the senses goes; no token of the vocabulary stands there."""
STOP = "###"
"""The published code looks for one of its two tokens (2277); here the text ends an answer, however it is tokenised."""


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """imagebind: ImageBindModel's arguments; llama: a LlamaConfig; lora_r, lora_alpha.  Raises ConfigError."""
    imagebind_llama.checked(config, set())
    senses = tuple(imagebind_llama.SENSES)
    backbone, _ = imagebind_llama.backbone_of(config)

    def build() -> SummedEmbeddingLM:
        language = backbone()
        return SummedEmbeddingLM(imagebind_llama.encoders_of(config, senses),
                        imagebind_llama.connectors_of(config, senses, language.config.width), language, PLACEHOLDER,
                        imagebind_llama.inputs_of(senses))  # fmt: skip

    return ModelSpec(build=build, keys=imagebind_llama.keys_of(config, senses, KeyTable()), assemble=assemble,
                     parts=imagebind_llama.parts_of(config, senses))  # fmt: skip


def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """Conversations about one item of each sense at once, from a folder with Vicuna's tokenizer."""
    tokenizer = files.tokenizer()
    processor = SharedPlaceholderProcessor(
        placeholder_id=PLACEHOLDER, tokenizer=tokenizer,
        template=PandaGPTFormat(begin=imagebind_llama.begin_of(tokenizer)),
        modalities=imagebind_llama.modalities((*imagebind_llama.SENSES, "video")),
    )  # fmt: skip
    return LoadedModel(model=module, processor=processor, stop=(STOP,))


def published(name: str, parameters: int, width: int, depth: int, heads: int, ffn: int, repository: str) -> Variant:
    llama = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
             "intermediate_size": ffn, "vocab_size": 32000, "rms_norm_eps": 1e-6}  # fmt: skip
    config = {"model_type": "pandagpt", "imagebind": imagebind_keys.HUGE, "llama": llama, "lora_r": 32,
              "lora_alpha": 32}  # fmt: skip
    return Variant(name=name, parameters=parameters, config=config, summary="delta on ImageBind huge and Vicuna v0",
                   repository=Repository(name=repository, license="CC-BY-NC-SA-4.0"))  # fmt: skip


def infer(shapes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = None if any(name.startswith("gen_text_hidden_fcs") for name in shapes) else imagebind_llama.infer(shapes)
    return None if found is None else {"model_type": "pandagpt", **found}


SYSTEM = System(
    id="pandagpt",
    aliases=("PandaGPT",),
    year=2023,
    fusion=("C",),
    assembly="SummedEmbeddingLM",
    inputs=("text", "image", "video", "audio", "thermal", "depth", "imu"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official PandaGPT",
            parse_config=parse_config,
            infer=infer,
            gather=imagebind_llama.gather,
            matches=hf("pandagpt"),
        ),
    ),
    variants=(
        published("7b", 7_976_949_505, 4096, 32, 32, 11008, "openllmplayground/pandagpt_7b_max_len_1024"),
        published("13b", 14_274_322_177, 5120, 40, 40, 13824, "openllmplayground/pandagpt_13b_max_len_400"),
    ),
    headline="answers about sounds, heat and sums of senses, though it was trained on pictures only",
    reference="arXiv 2305.16355",
    recipe=(
        # The low-rank paths are a part of the published model; the stage trains those that are there.
        Stage(
            name="instruct",
            data=(DataSource(name="pandagpt4_visual_instruction_data", kind="conversations", samples=160_000),),
            objective=LanguageModeling(),
            train=("connectors",),
            lora={"backbone.blocks.*.attn": LoRAConfig(rank=32, alpha=32, dropout=0.1)},
            optimizer=AdamW(lr=5e-4, betas=(0.9, 0.95), weight_decay=1e-3),
            schedule=Linear(warmup_ratio=0.1),
            budget=Budget(batch=64, epochs=2, max_length=1024),
            start="parts",
        ),
    ),
)
