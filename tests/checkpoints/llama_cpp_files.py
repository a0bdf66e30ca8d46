"""Files as llama.cpp's converters write them, from models of transformers: names by the gguf library's own map.

    write_text(path, model, arch, kind)      the language model of LlamaForCausalLM, Qwen2 ...; returns what was written
    write_llava(path, model)                 an mmproj by the older converter, names as it makes them
    write_qwen2_vl(path, model)              an mmproj by convert_hf_to_gguf.py --mmproj

Rows of q and k of architecture "llama" are reordered as `LlamaModel.permute` there does.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize

KINDS = gguf.GGMLQuantizationType


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """Halves of each head -> neighbouring pairs."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: KINDS) -> np.ndarray:
    """Add a tensor, matrices as `kind` where their rows are whole blocks; returns the values a reader gets back."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    block = gguf.GGML_QUANT_SIZES[kind][0]
    if values.ndim != 2 or values.shape[-1] % block or kind == KINDS.F32:
        writer.add_tensor(name, values)
        return values
    packed = quantize(values, kind)
    writer.add_tensor(name, packed, raw_dtype=kind)
    return dequantize(packed, kind)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    """What set_gguf_parameters of TextModel writes."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(size)
    if size * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(size)
        writer.add_value_length(size)
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if "mrope_section" in rope:
        writer.add_rope_dimension_sections([*rope["mrope_section"], 0])


def llama3_factors(config: Any) -> np.ndarray:
    """The tensor rope_freqs that the converter makes of llama3's scaling."""
    rope, size = config.rope_parameters, config.hidden_size // config.num_attention_heads
    trained = rope["original_max_position_embeddings"]
    low, high = trained / rope["low_freq_factor"], trained / rope["high_freq_factor"]
    factors = []
    for index in range(0, size, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (index / size)
        smooth = (trained / wave - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        between = 1 / ((1 - smooth) / rope["factor"] + smooth)
        factors.append(1.0 if wave < high else rope["factor"] if wave > low else between)
    return np.array(factors, dtype=np.float32)


def write_text(
    path: Path,
    tensors: dict[str, torch.Tensor],
    config: Any,
    arch: str = "llama",
    *,
    kind: KINDS = KINDS.F32,
    metadata: dict[str, Any] | None = None,
) -> dict[str, torch.Tensor]:
    """Write a language model from its state dict (names of ...ForCausalLM); returns the state dict a reader gets."""
    writer = gguf.GGUFWriter(path, arch)
    add_sizes(writer, config)
    add_metadata(writer, metadata or {})
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_hidden_layers)
    written = {}
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    for name, tensor in tensors.items():
        if name == "lm_head.weight" and getattr(config, "tie_word_embeddings", False):
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        heads = heads.get(name.split(".")[-2], 0) if arch == "llama" else 0
        values = tensor.numpy()
        theirs = names.get_name(name, (".weight", ".bias"))
        back = add(writer, theirs, permute(values, heads) if heads else values, kind)
        order = permute(np.arange(len(values)), heads).argsort() if heads else slice(None)
        written[name] = torch.from_numpy(back[order].copy())
    finish(writer)
    return written


def add_metadata(writer: gguf.GGUFWriter, metadata: dict[str, Any]) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
             list: writer.add_array}  # fmt: skip
    for name, value in metadata.items():
        kinds[type(value)](name, value)


CLIP = (
    ("vision_model", "v"), ("encoder.layers", "blk"), ("embeddings.", ""), ("_proj", ""), ("self_attn.", "attn_"),
    ("layer_norm", "ln"), ("layernorm", "ln"), ("mlp.fc1", "ffn_down"), ("mlp.fc2", "ffn_up"), ("embedding", "embd"),
    ("layrnorm", "ln"),
)  # fmt: skip
"""The replacements of the older converter in order: the first linear of a block really is called ffn_down."""


def write_llava(
    path: Path,
    tensors: dict[str, torch.Tensor],
    config: Any,
    layer: int,
    *,
    metadata: dict[str, Any],
    newer: bool = False,
) -> None:
    """Write an mmproj from the names below `model.` of LlavaForConditionalGeneration; `layer` counts hidden states.

    newer: names of the linears as files of today have them.
    """
    writer = gguf.GGUFWriter(path, "clip")
    vision = {"image_size": config.image_size, "patch_size": config.patch_size, "embedding_length": config.hidden_size,
              "feed_forward_length": config.intermediate_size, "projection_dim": 99, "block_count": layer,
              "attention.head_count": config.num_attention_heads,
              "attention.layer_norm_epsilon": config.layer_norm_eps}  # fmt: skip
    said = {"clip.has_text_encoder": False, "clip.has_vision_encoder": True, "clip.has_llava_projector": True,
            "clip.projector_type": "mlp", "clip.use_gelu": config.hidden_act == "gelu",
            "clip.vision.image_mean": [0.5, 0.25, 0.5], "clip.vision.image_std": [0.5, 0.5, 0.25],
            **{f"clip.vision.{name}": value for name, value in vision.items()}}  # fmt: skip
    add_metadata(writer, {name: value for name, value in (said | metadata).items() if value is not None})
    for name, tensor in tensors.items():
        if name.startswith("multi_modal_projector."):
            name = name.replace("multi_modal_projector", "mm").replace("linear_1", "0").replace("linear_2", "2")
        else:
            name = "vision_model." + name.removeprefix("vision_tower.").removeprefix("vision_model.")
            if "post_layernorm" in name or (".layers." in name and int(name.split(".")[3]) >= layer):
                continue
            for old, new in CLIP:
                name = name.replace(old, new)
            if newer:
                name = name.replace("ffn_down", "?").replace("ffn_up", "ffn_down").replace("?", "ffn_up")
        add(writer, name, tensor.squeeze().numpy(), KINDS.F32)
    finish(writer)


def write_qwen2_vl(path: Path, tensors: dict[str, torch.Tensor], config: Any) -> None:
    """Write an mmproj from the names below `model.visual.`."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.QWEN2VL)
    writer.add_vision_projection_dim(config.hidden_size)
    writer.add_vision_image_size(560)
    writer.add_vision_patch_size(config.patch_size)
    writer.add_vision_embedding_length(config.embed_dim)
    writer.add_vision_feed_forward_length(config.hidden_size)
    writer.add_vision_block_count(config.depth)
    writer.add_vision_head_count(config.num_heads)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, max(config.depth, 3))  # mm.2 counts as a block
    for name, tensor in tensors.items():
        parts = {name: tensor}
        if ".qkv." in name:
            parts = {name.replace("qkv", leaf): x for leaf, x in zip("qkv", tensor.chunk(3), strict=True)}
        for own, x in parts.items():
            if own == "patch_embed.proj.weight":
                add(writer, "v.patch_embd.weight", x[:, :, 0].numpy(), KINDS.F32)
                add(writer, "v.patch_embd.weight.1", x[:, :, 1].numpy(), KINDS.F32)
            else:
                add(writer, names.get_name(f"visual.{own}", (".weight", ".bias")), x.numpy(), KINDS.F32)
    finish(writer)
