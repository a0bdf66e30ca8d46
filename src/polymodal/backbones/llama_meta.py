"""Meta's own layout of LLaMA: `params.json` and the names in `consolidated.*.pth`.

    tok_embeddings, layers.{}.attention.{wq wk wv wo}, layers.{}.feed_forward.{w1 w2 w3}, norm, output

Traps: rows of wq and wk are ordered for rope on neighbouring pairs and are put to halves here; w1 is the gate, w3 the
up and w2 the down projection; the width of the MLP is not written but follows from `dim` and `multiple_of`.
"""

from collections.abc import Mapping
from typing import Any

from polymodal.backbones.decoder import DecoderConfig
from polymodal.backbones.llama import LlamaShape
from polymodal.weights.keytable import KeyTable, Row, drop, rename
from polymodal.weights.operations import RopeOrder, to_half_split


def shape_of(params: Mapping[str, Any]) -> LlamaShape:
    """The shape that `params.json` describes; `vocab_size` must be there and be no -1 (it comes from the tokenizer)."""
    dim, unit = params["dim"], params.get("multiple_of", 256)
    ffn = int(2 * 4 * dim / 3)
    if params.get("ffn_dim_multiplier"):
        ffn = int(params["ffn_dim_multiplier"] * ffn)
    return LlamaShape(
        width=dim,
        depth=params["n_layers"],
        heads=params["n_heads"],
        kv_heads=params.get("n_kv_heads"),
        ffn_width=unit * ((ffn + unit - 1) // unit),
        vocab_size=params["vocab_size"],
        theta=params.get("rope_theta") or 10000.0,
        eps=params.get("norm_eps", 1e-5),
        max_length=params.get("max_seq_len", 2048),
    )


NAMES = {
    "attention.wq": "attn.q_proj",
    "attention.wk": "attn.k_proj",
    "attention.wv": "attn.v_proj",
    "attention.wo": "attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
"""The seven linears of a layer."""


def rope_order(config: DecoderConfig, name: str) -> tuple[RopeOrder, ...]:
    """What the rows of a linear called `name` in Meta's files need: only wq and wk turn."""
    attention = config.blocks[0].attention
    heads = {"attention.wq": attention.heads, "attention.wk": attention.key_heads}
    return (to_half_split(heads[name]),) if name in heads else ()


def meta_keys(config: DecoderConfig) -> KeyTable:
    """Meta's names -> a Decoder of `config`; biases are read where a model has them."""
    rows: list[Row] = [
        drop("rope.freqs"),
        rename("tok_embeddings.weight", "embed_tokens.weight"),
        rename("norm.weight", "norm.weight"),
        rename("output.weight", "lm_head.weight"),
        rename("layers.{}.attention_norm.weight", "blocks.{}.attn_norm.weight"),
        rename("layers.{}.ffn_norm.weight", "blocks.{}.mlp_norm.weight"),
    ]
    for source, target in NAMES.items():
        order = rope_order(config, source)
        for leaf in ("weight", "bias"):
            rows.append(rename(f"layers.{{}}.{source}.{leaf}", f"blocks.{{}}.{target}.{leaf}", *order))
    return KeyTable(tuple(rows))
