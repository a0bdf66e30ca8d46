"""The official files of BLIP-2 and its descendants: names of LAVIS, at any size, in one file or in several.

    visual_encoder.* ln_vision.* query_tokens Qformer.bert.*  opt_proj|t5_proj|llm_proj|llama_proj.*  language model
    EVA's own file (cls_token, blocks.*) lies beside it, the language model in a folder of its own: `gather` joins them

The config of such a layout has the hub's field names with `model_type` "lavis-...".
Traps: official files of the second stage do not hold the language model; EVA's holds one block too many, a norm and a
head; `temp` scales only the training loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from polymodal.checkpoints import qformer_chat, qformer_lm
from polymodal.checkpoints.record import CheckpointFiles, ModelSpec
from polymodal.connectors import qformer
from polymodal.encoders import eva_vit
from polymodal.models.qformer_retrieval import QFormerRetrievalConfig
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, drop
from polymodal.weights.merged import Locations, MergedTensors, locations
from polymodal.weights.operations import ResizePositions

Shapes = Mapping[str, Sequence[int]]
# (linear to the language model, language model) by the model_type of its config
WEIGHTS = "model.safetensors"  # as `Model.save` writes what was joined
BLOCKS = 39  # of the 40 in EVA's own file
NAMES = {"opt": ("opt_proj", "opt_model"), "t5": ("t5_proj", "t5_model"), "llama": ("llm_proj", "llm_model")}


def vision_keys(ours: str = "encoders.image.") -> KeyTable:
    """EVA ViT-g and the norm behind it."""
    norm = qformer_lm.linear("ln_vision", f"{ours}final_norm")
    return eva_vit.OFFICIAL_KEYS.prefixed("visual_encoder.", ours) + norm


def qformer_keys(config: qformer.QFormerConfig, ours: str) -> KeyTable:
    """Queries and Q-Former."""
    return qformer_lm.QUERIES.prefixed("", ours) + qformer.lavis_keys(config).prefixed("Qformer.bert.", ours)


def parse_second_stage(config: Mapping[str, Any], *, instructed: bool = False) -> ModelSpec:
    """Encoder, Q-Former, linear and language model under the official names."""
    found = qformer_lm.qformer_lm(config, instructed=instructed, official=True)
    projection, language = NAMES[(config.get("text_config") or {}).get("model_type", "opt")]
    body = (
        vision_keys()
        + qformer_keys(found.connector.qformer, "connectors.image.qformer.")
        + qformer_lm.linear(projection, "connectors.image.proj")
    )
    keys = tuple(body + table.prefixed(f"{language}.", "backbone.") for table in found.text.keys)
    return ModelSpec(build=found.build, keys=keys, parts=found.drawing(), assemble=qformer_chat.assemble(found))


def parse_first_stage(config: Mapping[str, Any]) -> ModelSpec:
    """The first stage: Q-Former with its text path and the three heads."""
    encoder = eva_vit.parse_config(config.get("vision_config") or {}, official=True)
    given = {"vocab_size": 30523, **(config.get("qformer_config") or {})}
    asked = qformer.parse_config(
        given, queries=config.get("num_query_tokens", 32), source_width=encoder.width, text="full"
    )
    model = QFormerRetrievalConfig(
        qformer=asked, encoder=encoder, joint_width=config.get("image_text_hidden_size", 256)
    )
    heads = {"vision_proj": "image_proj", "text_proj": "text_proj", "itm_head": "match_head"}
    keys = vision_keys() + qformer_keys(asked, "connectors.image.")
    for theirs, ours in heads.items():
        keys += qformer_lm.linear(theirs, f"connectors.{ours}")
    return ModelSpec(build=model.build, keys=(keys + KeyTable((drop("temp"), drop("Qformer.cls.**"))),))


def infer_first(shapes: Shapes) -> dict[str, Any] | None:
    """The config of a first-stage file, by its shapes."""
    if "itm_head.weight" not in shapes or "Qformer.bert.embeddings.word_embeddings.weight" not in shapes:
        return None
    return {"model_type": "lavis-blip2-qformer", "image_text_hidden_size": shapes["vision_proj.weight"][0],
            **infer_vision(shapes)}  # fmt: skip


def infer_second(shapes: Shapes) -> dict[str, Any] | None:
    """The config of a second-stage file that holds its language model too, by its shapes."""
    text = next((text for text in (_opt(shapes), _t5(shapes)) if text is not None), None)
    if text is None or "Qformer.bert.embeddings.LayerNorm.weight" not in shapes:
        return None
    token = min(50265 if text["model_type"] == "opt" else 32100, text["vocab_size"] - 1)  # unused by the tokenizer
    return {"model_type": "lavis-blip2", "image_token_index": token, "text_config": text, **infer_vision(shapes)}


def infer_vision(shapes: Shapes) -> dict[str, Any]:
    """Sizes of EVA ViT (heads of 88) and Q-Former (heads of 64)."""
    width, _, patch, _ = shapes["visual_encoder.patch_embed.proj.weight"]
    grid = round((shapes["visual_encoder.pos_embed"][1] - 1) ** 0.5)
    layer = "Qformer.bert.encoder.layer"
    queries, asked = shapes["query_tokens"][1:]
    words = shapes.get("Qformer.bert.embeddings.word_embeddings.weight")
    positions = shapes.get("Qformer.bert.embeddings.position_embeddings.weight")
    crossed = [i for i in range(64) if f"{layer}.{i}.crossattention.self.query.weight" in shapes]
    return {
        "num_query_tokens": queries,
        "vision_config": {
            "hidden_size": width, "patch_size": patch, "image_size": grid * patch,
            "num_attention_heads": max(1, width // 88),
            "intermediate_size": shapes["visual_encoder.blocks.0.mlp.fc1.weight"][0],
            "num_hidden_layers": count(shapes, "visual_encoder.blocks.{}.norm1.weight"),
        },
        "qformer_config": {
            "hidden_size": asked, "num_attention_heads": max(1, asked // 64),
            "num_hidden_layers": count(shapes, layer + ".{}.attention.self.query.weight"),
            "intermediate_size": shapes[f"{layer}.0.intermediate_query.dense.weight"][0],
            "cross_attention_frequency": crossed[1] if len(crossed) > 1 else 2,
            **({} if words is None or positions is None
               else {"vocab_size": words[0], "max_position_embeddings": positions[0]}),
        },
    }  # fmt: skip


def count(shapes: Shapes, name: str) -> int:
    """How many of `name` there are, its `{}` counted from 0."""
    found = 0
    while name.format(found) in shapes:
        found += 1
    return found


def _opt(shapes: Shapes) -> dict[str, Any] | None:
    start = "opt_model.model.decoder"
    if f"{start}.embed_tokens.weight" not in shapes:
        return None
    vocabulary, width = shapes[f"{start}.embed_tokens.weight"]
    return {"model_type": "opt", "hidden_size": width, "vocab_size": vocabulary,
            "num_hidden_layers": count(shapes, start + ".layers.{}.fc1.weight"),
            "num_attention_heads": {768: 12, 1024: 16, 5120: 40}.get(width, 32),
            "ffn_dim": shapes[f"{start}.layers.0.fc1.weight"][0],
            "max_position_embeddings": shapes[f"{start}.embed_positions.weight"][0] - 2}  # fmt: skip


def _t5(shapes: Shapes) -> dict[str, Any] | None:
    first = "t5_model.encoder.block.0.layer"
    if f"{first}.0.SelfAttention.q.weight" not in shapes:
        return None
    inner, width = shapes[f"{first}.0.SelfAttention.q.weight"]
    buckets, heads = shapes[f"{first}.0.SelfAttention.relative_attention_bias.weight"]
    return {"model_type": "t5", "d_model": width, "num_heads": heads, "d_kv": inner // heads,
            "vocab_size": shapes["t5_model.shared.weight"][0], "tie_word_embeddings": False,
            "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "relative_attention_num_buckets": buckets,
            "d_ff": shapes[f"{first}.1.DenseReluDense.wo.weight"][1],
            "num_layers": count(shapes, "t5_model.encoder.block.{}.layer.0.layer_norm.weight"),
            "num_decoder_layers": count(shapes, "t5_model.decoder.block.{}.layer.0.layer_norm.weight")}  # fmt: skip


def gather(files: CheckpointFiles, language: str = "", grid: int | None = None) -> Mapping[str, Tensor]:
    """All tensors of a folder under the names of the whole official model.

    One weights file holds everything; several are joined: EVA's own, one or more of LAVIS, and the language model in
    a subfolder, which gets the prefix `language` (default: by its model_type).  grid: patches along a side of the
    model's pictures; EVA's own positions are resized to it (None: they stay).
    """
    folder = files.folder
    loose = sorted([*folder.glob("*.pth"), *folder.glob("*.pt")])
    parts = sorted(path.parent for path in folder.glob("*/config.json"))
    if (folder / WEIGHTS).is_file() or (len(loose) < 2 and not parts):
        return weights_in(folder, ("model", ""))
    found: Locations = {}
    for path in loose:
        found.update(eva_named(weights_in(path, ("model", "")), grid=grid))
    for part in parts:
        kind = CheckpointFiles(part).json("config.json").get("model_type", "")
        found.update(locations(weights_in(part), f"{language or NAMES[kind][1]}."))
    return MergedTensors.of(found)


def eva_named(tensors: Mapping[str, Tensor], prefix: str = "visual_encoder.", grid: int | None = None) -> Locations:
    """EVA's own file gets the prefix of the whole model and loses what BLIP-2 leaves out; others stay as they are.

    grid: patches of a side to which its table of positions is resized.
    """
    if "cls_token" not in tensors:
        return locations(tensors)
    kept = [name for name in tensors if name.split(".")[0] in ("cls_token", "pos_embed", "patch_embed")]
    kept += [name for name in tensors if name.startswith("blocks.") and int(name.split(".")[1]) < BLOCKS]
    found: Locations = {prefix + name: (tensors, name) for name in kept}
    if grid is not None and "pos_embed" in tensors:
        table = tensors["pos_embed"]
        side = round((table.shape[-2] - 1) ** 0.5)
        resized = {"pos_embed": ResizePositions((side, side), (grid, grid), leading=1)(table)}
        found[f"{prefix}pos_embed"] = (resized, "pos_embed")
    return found
