"""What CogVLM adds to a LLaMA decoder and how its prompts are written; see `cogvlm.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from polymodal.backbones import llama
from polymodal.checkpoints.visual_expert import TEMPLATE, TEXT, drawing, expert_keys, finish, rounds_of, with_expert
from polymodal.connectors.glu import GLUConnectorConfig, cogvlm_keys
from polymodal.data.item_rules import SameCount, StackedAs
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START
from polymodal.data.transforms import CLIP_MEAN, CLIP_STD, Squash
from polymodal.encoders import eva2_clip
from polymodal.errors import ConfigError
from polymodal.fusion.routing import ExpertRoutes
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Repository,
    Variant,
)


def written_out(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """The published prompt: the picture first, then all rounds as one text "Question: ... Answer: ...".

    Raises PromptError as `rounds_of`.
    """
    pictures, rounds, question, rest = rounds_of(messages, "cogvlm")
    history = "".join(f"Question: {asked} {words} {said}\n" for asked, said in rounds)
    prompt = f"{history}Question: {question} {words}" if words else question
    return (Message(role="user", parts=(*pictures, Text(prompt))), *rest)


WORDS = {"base": "", "chat": "Answer:", "vqa": "Short answer:"}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A CogVLMConfig dict -> the model; raises ConfigError for CogVLM2, whose experts and connector differ."""
    if "num_multi_query_heads" in config:
        raise ConfigError("cogvlm: num_multi_query_heads belongs to CogVLM2, which is another model; expected none")
    tower = eva2_clip.parse_config(config.get("vision_config") or {})
    text = with_expert(llama.parse_config({name: config[name] for name in TEXT if name in config}))
    connector = GLUConnectorConfig(ffn_width=config.get("intermediate_size", 11008))
    inputs, placeholders = (
        {"image": ModalityInputs(values="images", placeholder_mask="image_mask")},
        {"image": 0},
    )

    def build() -> MultimodalLM:
        parts = tower.build(), connector.build(tower.width, text.width), text.build()
        return MultimodalLM({"image": parts[0]}, {"image": parts[1]}, parts[2], placeholders,
                            inputs=inputs, prepare_inputs=ExpertRoutes())  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(pad="<unk>")
        side = config.get("vision_config", {}).get("image_size", 490)
        picture = Modality(
            name="image", placeholder="<unk>", transform=Squash(height=side, width=side, mean=CLIP_MEAN, std=CLIP_STD),
            tokens=SameCount(connector.tokens(tower.tokens)), collate=StackedAs("images"),
            after=(TEXT_START,))  # fmt: skip
        wording = WORDS[config.get("template_version", "chat")]
        processor = Processor(
            tokenizer=tokenizer, template=TEMPLATE, modalities=(picture,), max_length=text.max_length,
            rewrite=partial(written_out, words=wording), finish=finish)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = (
        eva2_clip.hf_keys(tower).prefixed("model.vision.", "encoders.image.")
        + cogvlm_keys(text.width).prefixed("model.vision.", "connectors.image.")
        + expert_keys(text).prefixed("", "backbone.")
    )
    return ModelSpec(build=build, keys=(keys,), parts=drawing(tower, connector, text), assemble=assemble)


def published(side: int, template: str) -> dict[str, Any]:
    """The config.json of the released checkpoints."""
    vision = {"dropout_prob": 0.0, "hidden_act": "gelu", "in_channels": 3, "num_hidden_layers": 63, "hidden_size": 1792,
              "patch_size": 14, "num_heads": 16, "intermediate_size": 15360, "layer_norm_eps": 1e-6,
              "num_positions": (side // 14) ** 2 + 1, "image_size": side}  # fmt: skip
    return {"model_type": "cogvlm", "architectures": ["CogVLMForCausalLM"], "vocab_size": 32000, "hidden_size": 4096,
            "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_act": "silu",
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "template_version": template, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "vision_config": vision}  # fmt: skip


def _variant(name: str, hub: str, parameters: int, side: int, template: str) -> Variant:
    repository = Repository(name=f"THUDM/{hub}", license="CogVLM License")
    return Variant(name=name, parameters=parameters, config=published(side, template), repository=repository)
