"""The metadata of llama.cpp's files -> the config.json of transformers.

    {arch}.embedding_length, .block_count, .rope.* ...    -> LlamaConfig, MistralConfig, Qwen2Config, Qwen2VLConfig
    clip.vision.*, clip.use_gelu                          -> CLIPVisionConfig, Qwen2VLVisionConfig

Everything below {arch}. and clip. is read, known to be without effect, or refused by its name.

Source: gguf-py/gguf/constants.py, convert_hf_to_gguf.py and tools/mtmd of llama.cpp.
Traps: llama3's scaled rope is a tensor, the factor of every frequency, which is what "longrope" means with the same
factors for short and long texts; an mmproj of LLaVA leaves out the blocks behind the layer that is read, so its last
block gives the features (llama.cpp itself runs one block less of files that do not name the layer, its issue 25817);
`feed_forward_length` of Qwen2-VL's mmproj is not the encoder's, the shapes tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from polymodal.errors import WeightsError
from polymodal.weights.read import TensorFile

ADVICE = "load the checkpoint's safetensors"
CAUSAL = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
          "qwen2_vl": "Qwen2VLForConditionalGeneration"}  # fmt: skip
_NO_EFFECT = ("vocab_size", "attention.value_length", "rope.dimension_count", "rope.scaling.finetuned",
              "tensor_data_layout", "expert_used_count")  # fmt: skip
_NO_EFFECT_CLIP = ("has_text_encoder", "has_vision_encoder", "has_llava_projector", "has_qwen2vl_merger",
                   "projector_type", "vision.projector_type", "vision.projection_dim", "vision.mm_projector_type",
                   "vision.image_crop_resolution", "vision.image_split_resolution", "vision.image_mean",
                   "vision.image_std", "vision.image_min_pixels", "vision.image_max_pixels")  # fmt: skip


class Metadata:
    """The values below a prefix; each is taken once, and `done` refuses what nobody took."""

    def __init__(self, file: TensorFile, prefix: str) -> None:
        self.file, self.prefix = file, prefix
        self.left = {key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)}

    def number(self, name: str, default: Any = ...) -> Any:
        """A number above zero; WeightsError when it is something else, or missing without a default."""
        found = self.left.pop(name, default)
        if found is ... or not (found is default or (type(found) in (int, float) and 0 < found < math.inf)):
            what = "is missing" if found is ... else f"is {str(found)[:60]}, expected a number above zero"
            raise WeightsError(f"{self.file.path}: the metadata {self.prefix}{name} {what}; {ADVICE}")
        return found

    def count(self, name: str, default: Any = ...) -> Any:
        """A whole number above zero, or the default."""
        found = self.number(name, default)
        if found is not default and type(found) is not int:
            what = f"the metadata {self.prefix}{name} is {found}, expected a whole number"
            raise WeightsError(f"{self.file.path}: {what}; {ADVICE}")
        return found

    def blocks(self, name: str, tensor: str) -> int:
        """How many blocks there are; WeightsError unless the last of them has its `tensor`."""
        found = self.count(name)
        last = tensor.format(found - 1)
        if last not in self.file.infos:
            what = f"{found} blocks are announced, the tensor {last!r} is missing"
            raise WeightsError(f"{self.file.path}: {what}; download it again")
        return found

    def list(self, name: str) -> list[Any]:
        """A list of numbers, empty when there is none."""
        found = self.left.pop(name, [])
        if not isinstance(found, list) or not all(type(each) in (int, float) for each in found):
            raise WeightsError(f"{self.file.path}: the metadata {self.prefix}{name} is no list of numbers; {ADVICE}")
        return found

    def only(self, name: str, *expected: Any) -> None:
        """Refuses any value but those."""
        found = self.left.pop(name, expected[0])
        if found not in expected:
            raise WeightsError(f"{self.file.path}: {self.prefix}{name} {str(found)[:60]!r} is not supported; {ADVICE}")

    def done(self, no_effect: Iterable[str]) -> None:
        """Refuses a setting that is neither taken nor without effect."""
        unknown = sorted(self.left.keys() - set(no_effect))
        if unknown:
            raise WeightsError(f"{self.file.path}: the setting {self.prefix}{unknown[0]} is not supported; {ADVICE}")


def text_config(file: TensorFile, arch: str) -> dict[str, Any]:
    """A language model's config; raises WeightsError for a setting that is missing or not supported."""
    meta = Metadata(file, f"{arch}.")
    width, heads = meta.count("embedding_length"), meta.count("attention.head_count")
    if len(file.infos["token_embd.weight"].shape if "token_embd.weight" in file.infos else ()) != 2:
        raise WeightsError(f"{file.path}: there is no table of tokens 'token_embd.weight'; download it again")
    window = _window(meta) if arch == "llama" else None
    kind = "mistral" if window else {"qwen2vl": "qwen2_vl"}.get(arch, arch)
    config = {
        "model_type": kind,
        "architectures": [CAUSAL[kind]],
        "vocab_size": file.infos["token_embd.weight"].shape[0],
        "hidden_size": width,
        "num_hidden_layers": meta.blocks("block_count", "blk.{}.attn_norm.weight"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.count("attention.head_count_kv", heads),
        "head_dim": meta.count("attention.key_length", max(1, width // heads)),
        "intermediate_size": meta.count("feed_forward_length"),
        "rms_norm_eps": meta.number("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": meta.count("context_length"),
        "rope_theta": float(meta.number("rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in file.infos,
    }
    if kind == "mistral":
        config["sliding_window"] = window
    if kind == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.infos
        config["mlp_bias"] = "blk.0.ffn_up.bias" in file.infos
    if scaling := _rope_scaling(meta, config):
        config["rope_scaling"] = scaling
    meta.only("attention.causal", True)
    meta.only("expert_count", 0)
    meta.only("pooling_type", 0)
    meta.done(_NO_EFFECT)
    return config


def _window(meta: Metadata) -> int | None:
    """The sliding window of a Mistral; None for none, which some files write as 0."""
    if meta.left.get("attention.sliding_window") == 0:
        del meta.left["attention.sliding_window"]
    return meta.count("attention.sliding_window", None)


def _rope_scaling(meta: Metadata, config: dict[str, Any]) -> dict[str, Any] | None:
    """`rope_scaling` as transformers writes it, None for plain rope."""
    kind = meta.left.pop("rope.scaling.type", "none")
    factor = meta.number("rope.scaling.factor", meta.number("rope.scale_linear", 1.0))
    trained = meta.number("rope.scaling.original_context_length", config["max_position_embeddings"])
    names = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow", "yarn_attn_factor": "attention_factor"}
    yarn = {hub: meta.number(f"rope.scaling.{name}", None) for name, hub in names.items()}
    sections = meta.list("rope.dimension_sections")
    if "rope_freqs.weight" in meta.file.infos:
        factors = [float(each) for each in meta.file["rope_freqs.weight"]]
        if len(factors) != config["head_dim"] // 2 or kind != "none" or sections:
            raise WeightsError(f"{meta.file.path}: {len(factors)} factors of rope frequencies, expected "
                               f"{config['head_dim'] // 2} and no scaling beside; {ADVICE}")  # fmt: skip
        return {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0,
                "original_max_position_embeddings": trained}  # fmt: skip
    if sections:
        if kind != "none":
            raise WeightsError(f"{meta.file.path}: rope on several axes scaled by {kind!r} is not supported; {ADVICE}")
        return {"type": "mrope", "mrope_section": sections[:3]}
    if kind == "none" or (kind == "linear" and factor == 1):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        said = {name: value for name, value in yarn.items() if value is not None}
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained, **said}
    raise WeightsError(f"{meta.file.path}: {meta.prefix}rope.scaling.type {kind!r} is not supported; {ADVICE}")


def llava_vision(file: TensorFile) -> dict[str, Any]:
    """CLIP's config and the layer that is read, of an mmproj with projector "mlp"."""
    meta = Metadata(file, "clip.")
    blocks, layers = meta.blocks("vision.block_count", "v.blk.{}.ln1.weight"), meta.list("vision.feature_layer")
    if meta.list("vision.image_grid_pinpoints"):
        raise WeightsError(f"{file.path}: pictures in tiles (LLaVA 1.6) are not read from GGUF; {ADVICE}")
    meta.only("vision.mm_patch_merge_type", "flat")
    meta.only("vision.image_aspect_ratio", "pad", "square")
    for name in ("v.patch_embd.bias", "mm.1.weight", "mm.3.weight", "model.image_newline"):
        if name in file.infos:
            raise WeightsError(f"{file.path}: {name!r} is not of CLIP with two linears (LLaVA 1.5); {ADVICE}")
    if "mm.2.weight" not in file.infos:
        raise WeightsError(f"{file.path}: a connector of one linear (LLaVA 1) is not read from GGUF; {ADVICE}")
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": meta.count("vision.embedding_length"),
        "intermediate_size": meta.count("vision.feed_forward_length"),
        "num_hidden_layers": blocks,
        "num_attention_heads": meta.count("vision.attention.head_count"),
        "image_size": meta.count("vision.image_size"),
        "patch_size": meta.count("vision.patch_size"),
        "layer_norm_eps": meta.number("vision.attention.layer_norm_epsilon"),
        "hidden_act": _activation(meta),
    }
    meta.done(_NO_EFFECT_CLIP)
    return {"vision_config": vision, "vision_feature_layer": layers[0] if len(layers) == 1 else layers or blocks}


def qwen2_vl_vision(file: TensorFile, width: int) -> dict[str, Any]:
    """The vision_config of an mmproj with projector "qwen2vl_merger"; width: of the language model."""
    meta = Metadata(file, "clip.")
    own = meta.count("vision.embedding_length")
    shape = file.infos["v.blk.0.ffn_up.weight"].shape if "v.blk.0.ffn_up.weight" in file.infos else (4 * own, own)
    hidden = shape[0] if shape[-1] == own else shape[-1]
    config = {
        "depth": meta.blocks("vision.block_count", "v.blk.{}.ln1.weight"),
        "embed_dim": own,
        "num_heads": meta.count("vision.attention.head_count"),
        "hidden_size": width,
        "mlp_ratio": hidden // own,
        "patch_size": meta.count("vision.patch_size"),
        "spatial_merge_size": meta.count("vision.spatial_merge_size", 2),
        "temporal_patch_size": 2,
        "hidden_act": _activation(meta),
    }
    unused = ("vision.image_size", "vision.feed_forward_length", "vision.attention.layer_norm_epsilon")
    meta.done((*_NO_EFFECT_CLIP, *unused))
    return config


def _activation(meta: Metadata) -> str:
    meta.only("use_silu", False)
    meta.only("has_audio_encoder", False)
    return "gelu" if meta.left.pop("use_gelu", False) else "quick_gelu"
