"""Published checkpoints of MiniGPT-4: the prompt of its demo, config to model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.checkpoints import minigpt
from polymodal.connectors.qformer import QFormerConnectorConfig
from polymodal.data.processor import Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Variant

SYSTEM_WORDS = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)


def template(llama_2: bool) -> Template:
    """The prompt of the demo: `system###Human: ...###Assistant: ...###`, or LLaMA-2's brackets."""
    begin = (Special(name="<s>"), TEXT_START, Words(text=SYSTEM_WORDS + ("" if llama_2 else "###")))
    if llama_2:
        user = Turn(before=(Special(name="<s>"), Words(text="[INST] ")), after=(Words(text=" [/INST] "),))
        return Template(turns={"user": user, "assistant": Turn(loss_mask=True)}, begin=begin)
    user = Turn(before=(Words(text="Human: "),), after=(Words(text="###"),))
    assistant = Turn(before=(Words(text="Assistant: "),), after=(Words(text="###", loss_mask=True),), loss_mask=True)
    return Template(turns={"user": user, "assistant": assistant}, begin=begin, ask=assistant.before)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The whole model under the official names, at any size."""
    found = minigpt.parse_config(config)
    has_qformer = isinstance(found.connector, QFormerConnectorConfig)

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        words, tokenizer = template(llama_2=not has_qformer), files.tokenizer(added=(minigpt.HERE,))
        processor = Processor(tokenizer=tokenizer, template=words, modalities=(found.picture(files),))
        return LoadedModel(model=module, processor=processor, stop=("###",) if has_qformer else ())

    return ModelSpec(build=found.build, keys=found.keys, parts=found.drawing("Vicuna or LLaMA-2"), assemble=assemble)


def _variant(name: str, parameters: int, llama_2: bool, width: int, depth: int, ffn_width: int) -> Variant:
    text = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": depth,
            "num_attention_heads": width // 128, "intermediate_size": ffn_width, "vocab_size": 32000,
            "rms_norm_eps": 1e-5 if llama_2 else 1e-6,
            "max_position_embeddings": 4096 if llama_2 else 2048}  # fmt: skip
    return Variant(name=name, parameters=parameters,
                   config={"model_type": "minigpt4", "has_qformer": not llama_2, "text_config": text})  # fmt: skip
