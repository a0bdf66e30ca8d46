"""CogVLM: a picture meets its own weights in every layer of the language model.

Paper: CogVLM: Visual Expert for Pretrained Language Models (arXiv 2311.03079).

    picture -> 490 x 490, aspect not kept -> EVA2-CLIP-E without its last layer [N, 1225, 1792]
            -> gated MLP, begin and end marker [N, 1227, D] -> spliced behind `<s>`                    (fusion type C)
    every block: q, k, v, o and MLP of the begin marker and the patches are a visual expert's          (fusion type B)

Traps: the end marker takes the language weights; all patches of a picture share one rotary position; the placeholders
are <unk>, which is the padding too, so places come from `token_type_ids`; the template called "chat" in the hub's code
is the one the other code calls "chat_old".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.backbones import llama
from polymodal.connectors.glu import GLUConnectorConfig, cogvlm_keys
from polymodal.data.processor import Modality, Processor
from polymodal.data.transforms import CLIP_MEAN, CLIP_STD, Squash
from polymodal.encoders import eva2_clip
from polymodal.errors import ConfigError
from polymodal.fusion.routing import ExpertRoutes
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.systems.cogvlm import checkpoint as expert

TEXT = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
        "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")  # fmt: skip
WORDS = {"base": "", "chat": "Answer:", "vqa": "Short answer:"}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A CogVLMConfig dict -> the model; raises ConfigError for CogVLM2, whose experts and connector differ."""
    if "num_multi_query_heads" in config:
        raise ConfigError("cogvlm: num_multi_query_heads belongs to CogVLM2, which is another model; expected none")
    tower = eva2_clip.of_config(config.get("vision_config") or {})
    text = expert.with_expert(llama.config_of({name: config[name] for name in TEXT if name in config}))
    connector = GLUConnectorConfig(ffn_width=config.get("intermediate_size", 11008))
    inputs, placeholders = {"image": ModalityInputs(values="images", places="image_places")}, {"image": 0}

    def build() -> MultimodalLM:
        parts = tower.build(), connector.build(tower.width, text.width), text.build()
        return MultimodalLM({"image": parts[0]}, {"image": parts[1]}, parts[2], placeholders,
                            inputs=inputs, prepare_inputs=ExpertRoutes())  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(pad="<unk>")
        side = config.get("vision_config", {}).get("image_size", 490)
        picture = Modality(
            name="image", placeholder="<unk>", transform=Squash(height=side, width=side, mean=CLIP_MEAN, std=CLIP_STD),
            tokens=lambda _: connector.tokens(tower.tokens), collate=expert.named)  # fmt: skip
        wording = WORDS[config.get("template_version", "chat")]
        processor = Processor(
            tokenizer=tokenizer, template=expert.TEMPLATE, modalities=(picture,), max_length=text.max_length,
            rewrite=lambda messages: expert.written_out(messages, wording), finish=expert.finish)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = (
        eva2_clip.hf_keys(tower).prefixed("model.vision.", "encoders.image.")
        + cogvlm_keys(text.width).prefixed("model.vision.", "connectors.image.")
        + expert.expert_keys(text).prefixed("", "backbone.")
    )
    return ModelSpec(build=build, keys=(keys,), parts=drawn(tower, connector, text), assemble=assemble)


def drawn(tower: Any, connector: GLUConnectorConfig, text: Any) -> tuple[Part, ...]:
    side, seen, count = tower.image_size, f"[N, {tower.tokens}, {tower.width}]", connector.tokens(tower.tokens)
    return (
        Part(slot="encoder", modality="image", name="EVA2-CLIP-E", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="connector", modality="image", name="gated MLP, two markers", prefix="connectors.image", input=seen,
             output=f"[N, {count}, {text.width}]", tokens=count),
        Part(slot="backbone", name="Vicuna with a visual expert in every layer", prefix="backbone",
             input=f"[B, T, {text.width}]", output=f"[B, T, {text.vocab_size}]"),
    )  # fmt: skip


def published(side: int, template: str) -> dict[str, Any]:
    """The config.json of the released checkpoints."""
    vision = {"dropout_prob": 0.0, "hidden_act": "gelu", "in_channels": 3, "num_hidden_layers": 63, "hidden_size": 1792,
              "patch_size": 14, "num_heads": 16, "intermediate_size": 15360, "layer_norm_eps": 1e-6,
              "num_positions": (side // 14) ** 2 + 1, "image_size": side}  # fmt: skip
    return {"model_type": "cogvlm", "architectures": ["CogVLMForCausalLM"], "vocab_size": 32000, "hidden_size": 4096,
            "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_act": "silu",
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "template_version": template, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "vision_config": vision}  # fmt: skip


def _variant(name: str, repository: str, parameters: int, side: int, template: str) -> Variant:
    place = Repository(name=f"THUDM/{repository}", license="CogVLM License")
    return Variant(name=name, parameters=parameters, config=published(side, template), repository=place)


SYSTEM = System(
    id="cogvlm",
    aliases=("CogVLM-17B", "CogVLM"),
    year=2023,
    fusion=("B", "C"),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="THUDM CogVLMForCausalLM", matches=hf("cogvlm", "CogVLMForCausalLM"), parse_config=parse_config
        ),
    ),
    variants=(
        _variant("chat", "cogvlm-chat-hf", 17_639_685_376, 490, "chat"),
        _variant("base-490", "cogvlm-base-490-hf", 17_639_685_376, 490, "base"),
        _variant("base-224", "cogvlm-base-224-hf", 17_637_948_928, 224, "base"),
        _variant("grounding-generalist", "cogvlm-grounding-generalist-hf", 17_639_685_376, 490, "base"),
    ),
    headline="a visual expert beside the attention and MLP weights of every language layer",
    reference="arXiv 2311.03079",
    recipe=(
        Stage(
            name="caption",
            data="1.5 billion filtered pairs of LAION-2B and COYO (recalled)",
            batch=8192,
            objective="language model, captions",
            train=("connectors.image", "backbone.*.branches.1"),
            lr=1e-4,
            steps=120_000,
        ),
        Stage(
            name="ground",
            data="captions and referring expressions of LAION-40M-grounding (recalled)",
            batch=1024,
            objective="language model, captions and boxes",
            train=("connectors.image", "backbone.*.branches.1"),
            lr=1e-4,
            steps=60_000,
        ),
        Stage(
            name="instruct",
            data="visual questions and dialogues (recalled; the ViT at a tenth of the rate)",
            objective="language model, answers",
            train=("encoders.image", "connectors.image", "backbone"),
            lr=1e-5,
            batch=1024,
            steps=6000,
        ),
    ),
)
