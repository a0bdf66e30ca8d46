"""VisualGLM-6B (THUDM, 2023): BLIP-2's encoder and Q-Former in front of ChatGLM-6B, in Chinese and English.

    pixel_values [N, 3, 224, 224] -> EVA ViT-g -> Q-Former of 32 queries -> linear [N, 32, 4096]
    <img>features</img>{question}[gMASK]<sop> -> ChatGLM-6B, which sees its prompt in both directions -> answer <eop>

Two layouts: the hub's and SwissArmyTransformer's (`mp_rank_00_model_states.pt`).  Traps: q, k and v lie by heads in
the hub's language model and behind one another everywhere else; the hub's class rounds the frequencies of its
positions; the old vocabulary of 150528 is another model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from polymodal.backbones import chatglm
from polymodal.checkpoints import qformer_lm, sat_blip2
from polymodal.checkpoints.chatglm_picture import PictureGLM
from polymodal.connectors.qformer import QFormerConnectorConfig
from polymodal.errors import ConfigError
from polymodal.systems import CheckpointFormat, ModelSpec, Repository, System, Variant, hf
from polymodal.systems.visualglm.recipe import RECIPE
from polymodal.weights.keytable import KeyTable, drop

HUB_CLASS, SAT = "ChatGLMForConditionalGenerationWithImage", "visualglm-sat"


def parse_config(config: Mapping[str, Any], hub: bool = True) -> ModelSpec:
    """The whole model at any size, under the hub's names or those of SwissArmyTransformer."""
    encoder = sat_blip2.parse_vision(config.get("eva_config") or {})
    asked = sat_blip2.parse_qformer(config.get("qformer_config") or {}, encoder.width)
    decoder = chatglm.parse_config(config, hub=hub)
    if config.get("image_length", asked.queries) != asked.queries:
        raise ConfigError(f"visualglm: image_length {config['image_length']} differs from the {asked.queries} queries")
    found = PictureGLM(
        encoder=encoder, connector=QFormerConnectorConfig(qformer=asked, out_width=decoder.width), decoder=decoder,
        placeholder=config.get("image_token_index", decoder.vocab_size),
        start=config.get("bos_token_id", 130004), end=config.get("eos_token_id", 130005),
    )  # fmt: skip
    prefix = "image_encoder." if hub else "mixins.eva.model."
    keys = (
        sat_blip2.vision_keys().prefixed(f"{prefix}vit.", "encoders.image.")
        + sat_blip2.qformer_keys(asked).prefixed(f"{prefix}qformer.", "connectors.image.qformer.")
        + qformer_lm.linear(f"{prefix}glm_proj", "connectors.image.proj")
    )
    if hub:
        keys += chatglm.hf_keys(decoder).prefixed(target="backbone.")
    else:
        head = "mixins.chatglm-final.lm_head.weight"
        keys += chatglm.hf_keys(decoder, grouped=False, head=head).prefixed(target="backbone.")
        keys += KeyTable((drop("mixins.chatglm-attn.rotary_emb.inv_freq"),))
    return ModelSpec(build=found.build, keys=(keys,), parts=found.drawing(), assemble=found.assemble,
                     ends=((found.end,), config.get("pad_token_id", 3)))  # fmt: skip


def infer(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of SwissArmyTransformer's one file: the published sizes, if its vocabulary is theirs."""
    words = shapes.get("transformer.word_embeddings.weight")
    if words is None or "mixins.eva.model.glm_proj.weight" not in shapes:
        return None
    return {"model_type": SAT, "vocab_size": words[0]}


PUBLISHED = {"model_type": "chatglm", "architectures": [HUB_CLASS], "vocab_size": 130528, "hidden_size": 4096,
             "num_layers": 28, "num_attention_heads": 32, "inner_hidden_size": 16384, "layernorm_epsilon": 1e-5,
             "max_sequence_length": 2048, "bos_token_id": 130004, "eos_token_id": 130005, "gmask_token_id": 130001,
             "mask_token_id": 130000, "pad_token_id": 3, "image_length": 32}  # fmt: skip

SYSTEM = System(
    id="visualglm",
    aliases=("VisualGLM", "VisualGLM-6B"),
    year=2023,
    fusion=("C",),
    assembly="PrefixLM",
    inputs=("image", "text"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="hub VisualGLM",
            parse_config=parse_config,
            matches=hf("chatglm", HUB_CLASS),
        ),
        CheckpointFormat(
            name="SwissArmyTransformer VisualGLM",
            parse_config=partial(parse_config, hub=False),
            matches=hf(SAT),
            infer=infer,
            entry=("module", ""),
        ),
    ),
    variants=(
        Variant(
            name="6b",
            parameters=7_802_193_408,
            config=PUBLISHED,
            repository=Repository(name="THUDM/visualglm-6b", license="custom: research free, commercial on request"),
        ),
    ),
    headline="talks about a picture in Chinese and in English, with a language model that reads its prompt both ways",
    reference="github.com/THUDM/VisualGLM-6B",
    recipe=RECIPE,
)
