"""Published checkpoints of ModaVerse: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from polymodal.checkpoints import imagebind_llama
from polymodal.checkpoints.imagebind_llama import Layout
from polymodal.data.processor import Processor
from polymodal.data.template import Special
from polymodal.generators.diffusion import PROMPTED
from polymodal.models.meta_response_lm import MetaResponseLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.modaverse.processing import BEGIN, END, FLAGS, ModaVerseFormat
from polymodal.weights.keytable import KeyTable, drop

SENSES = ("image", "audio")
PLACEHOLDERS = {"image": -1, "audio": -2, "video": -3}
"""Written where a vector goes; no token of the vocabulary stands there."""
LAYOUT = Layout(encoder="imagebind_encoder.", linear="linear_proj.", llm="LLM.", scaled_audio=True)
ALIAS = KeyTable((drop("input_embeddings.weight", copy_of=f"{LAYOUT.adapted}model.embed_tokens.weight"),))
"""The official class also keeps the embedding under a name of its own, which a whole state dict repeats."""
STOP = "###"
"""The published code looks for id 835; here the text ends an answer, however it is tokenised."""
SAMPLING = {"temperature": 1.0, "top_p": 0.01, "max_tokens": 246}
GENERATORS = {"image": "Stable Diffusion 1.5", "video": "text-to-video-ms-1.7b", "audio": "AudioLDM-L"}
LLAMA_7B = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "intermediate_size": 11008, "vocab_size": 32006, "rms_norm_eps": 1e-6}  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """imagebind: ImageBindModel's arguments; llama: a LlamaConfig; lora_r, lora_alpha.  Raises ConfigError."""
    imagebind_llama.checked(config, set())
    backbone, _ = imagebind_llama.backbone_of(config)
    width = config["llama"].get("hidden_size", 4096)

    def build() -> MetaResponseLM:
        return MetaResponseLM(
            imagebind_llama.encoders_of(config, SENSES, LAYOUT),
            imagebind_llama.connectors_of(config, SENSES, width),
            backbone(),
            PLACEHOLDERS,
            inputs=imagebind_llama.inputs_of(SENSES),
            positions_ignore_padding=True,
        )

    return ModelSpec(build=build, keys=imagebind_llama.keys_of(config, SENSES, ALIAS, LAYOUT),
                     parts=drawing(config), assemble=assemble)  # fmt: skip


def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """One instruction with a picture, a video and a sound at most, from a folder with Vicuna's tokenizer."""
    tokenizer = files.tokenizer(added=(BEGIN, END, *FLAGS))
    processor = Processor(
        tokenizer=tokenizer, template=ModaVerseFormat(begin=imagebind_llama.begin_of(tokenizer)),
        modalities=imagebind_llama.modalities(PLACEHOLDERS, (Special(name=BEGIN),), (Special(name=END),)),
    )  # fmt: skip
    return LoadedModel(model=module, processor=processor, stop=(STOP,), sampling=SAMPLING)


def drawing(config: Mapping[str, Any]) -> tuple[Part, ...]:
    """The boxes of `show`; the generators are pipelines of the caller's, which read the prompt of an answer."""
    makers = (
        Part(slot="generator", modality=name, name=GENERATORS[name], prefix="", input="a prompt in words", output=name)
        for name in PROMPTED
    )
    return (*imagebind_llama.parts_of(config, SENSES), *makers)


gather = partial(imagebind_llama.gather, layout=LAYOUT)


def infer(shapes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The config of an official state dict; None for another file."""
    found = imagebind_llama.infer(shapes, LAYOUT)
    return None if found is None else {"model_type": "modaverse", **found}
