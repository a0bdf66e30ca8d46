"""Published checkpoints of BLIP-2: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.checkpoints import qformer_chat, qformer_lm
from polymodal.connectors import qformer
from polymodal.encoders import eva_vit
from polymodal.models.qformer_retrieval import QFormerRetrievalConfig
from polymodal.systems import ModelSpec, Part, Repository, Variant

RETRIEVAL = ("Blip2ForImageTextRetrieval", "Blip2VisionModelWithProjection", "Blip2TextModelWithProjection")


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The generating model at any size."""
    found = qformer_lm.qformer_lm(config)
    return ModelSpec(
        build=found.build, keys=qformer_lm.hf_keys(found), parts=found.drawing(), assemble=qformer_chat.assemble(found)
    )


def parse_retrieval_config(config: Mapping[str, Any]) -> ModelSpec:
    """The first stage: pictures against texts, or one of the two alone."""
    kind = (config.get("architectures") or RETRIEVAL[:1])[0]
    pictures, texts, whole = kind != RETRIEVAL[2], kind != RETRIEVAL[1], kind == RETRIEVAL[0]
    encoder = eva_vit.parse_config(config.get("vision_config") or {})
    given = config.get("qformer_config") or {}
    reads = "full" if texts else "mlp" if given.get("use_qformer_text_input") else "none"
    queries = config.get("num_query_tokens", 32)
    asked = qformer.parse_config(given, queries=queries, source_width=encoder.width, text=reads)
    model = QFormerRetrievalConfig(
        qformer=asked, encoder=encoder if pictures else None, joint_width=config.get("image_text_hidden_size", 256),
        placeholders=queries if whole and config.get("image_token_index") is not None else 0,
        images=pictures, texts=texts, matching=whole, pooled=whole,
    )  # fmt: skip
    assembled = qformer_chat.pairs(model, config.get("image_token_index")) if whole else None
    return ModelSpec(
        build=model.build, keys=(qformer_lm.retrieval_keys(model),), parts=_drawing(model), assemble=assembled
    )


def _drawing(model: QFormerRetrievalConfig) -> tuple[Part, ...]:
    asked = model.qformer
    return (
        Part(slot="encoder", modality="image", name="EVA-CLIP ViT-g/14, 39 blocks", prefix="encoders.image",
             input="[N, 3, 224, 224]", output=f"[N, S, {asked.source_width}]"),
        Part(slot="connector", modality="image", name=f"Q-Former of {asked.queries} queries, reading text too",
             prefix="connectors.image", input=f"[N, S, {asked.source_width}]",
             output=f"[N, {asked.queries}, {asked.width}]", tokens=asked.queries),
    )  # fmt: skip


def _size(text: dict[str, Any], token: int) -> dict[str, Any]:
    return {"model_type": "blip-2", "architectures": ["Blip2ForConditionalGeneration"], "image_token_index": token,
            "num_query_tokens": 32, "text_config": text}  # fmt: skip


OPT_2_7B = {"model_type": "opt", "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32,
            "ffn_dim": 10240, "word_embed_proj_dim": 2560, "vocab_size": 50272, "eos_token_id": 50118}  # fmt: skip


OPT_6_7B = {**OPT_2_7B, "hidden_size": 4096, "ffn_dim": 16384, "word_embed_proj_dim": 4096}


FLAN_T5_XL = {"model_type": "t5", "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32,
              "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "eos_token_id": 1,
              "tie_word_embeddings": False, "decoder_start_token_id": 0, "bos_token_id": 1}  # fmt: skip


FLAN_T5_XXL = {**FLAN_T5_XL, "d_model": 4096, "d_ff": 10240, "num_heads": 64}


def _variant(name: str, parameters: int, text: dict[str, Any], token: int, license: str) -> Variant:
    repository = Repository(name=f"Salesforce/blip2-{name}", license=license)
    return Variant(name=name, parameters=parameters, config=_size(text, token), repository=repository)


_ITM = {
    "model_type": "blip-2",
    "architectures": ["Blip2ForImageTextRetrieval"],
    "num_query_tokens": 32,
    "image_text_hidden_size": 256,
    "qformer_config": {"vocab_size": 30523, "use_qformer_text_input": True},
}


_OPT, _T5 = "MIT and the OPT licence (non-commercial)", "MIT and Apache-2.0"
