"""The same weights in `transformers` and in llama.cpp, where they are installed and know the model."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from polymodal.backbones.decoder import Decoder
from polymodal.backbones.llama import CONFIGS, SHAPES, LlamaShape, hf_keys
from polymodal.check import library
from polymodal.check.llama_cpp import LlamaCpp, write_gguf
from polymodal.nn.fuse import split_state
from polymodal.nn.quantise import is_quantised
from polymodal.weights.build import build_empty
from polymodal.weights.export import export_tensors


def peer_of(address: str, module: Any) -> tuple[Any, str]:
    """(the causal language model or None, why there is none)."""
    if importlib.util.find_spec("transformers") is None:
        return None, "transformers is not installed"
    if is_quantised(module):
        return None, "transformers has no weights of 8 bits on a CPU"
    if (Path(address) / "config.json").is_file():
        found = library.language_model(Path(address), next(module.parameters()).dtype)
        return found, "" if found is not None else "the folder is no language model alone"
    shape = shape_of(module.backbone)
    if shape is None:
        return None, "the language model is no LLaMA of the catalogue, nor a folder"
    return llama(module.backbone, shape), ""


def shape_of(backbone: Any) -> LlamaShape | None:
    """The catalogue's record of a plain LLaMA."""
    name = next((name for name, config in CONFIGS.items() if config == backbone.config), None)
    if name is None or not isinstance(backbone, Decoder) or SHAPES[name].scaling is not None:
        return None
    return SHAPES[name]


@contextmanager
def llama_cpp_of(module: Any, threads: int) -> Iterator[dict[str, LlamaCpp]]:
    """llama.cpp with the same weights as F32 and as Q8_0; nothing where it is missing or the model is another kind."""
    shape = shape_of(module.backbone)
    plain = shape is not None and not (shape.window or shape.head_dim or shape.qkv_bias or shape.out_bias)
    if importlib.util.find_spec("xllamacpp") is None or shape is None or not plain or is_quantised(module):
        yield {}
        return
    with TemporaryDirectory() as folder:
        found = {}
        for kind in ("F32", "Q8_0"):
            path = Path(folder) / f"{kind}.gguf"
            write_gguf(path, module.backbone, shape, kind)
            found[kind] = LlamaCpp(path, threads)
        yield found


def llama(decoder: Decoder, shape: LlamaShape) -> Any:
    """A LlamaForCausalLM with the weights of ours."""
    config = decoder.config
    with library.quiet() as transformers:
        peer = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=shape.width,
                num_hidden_layers=shape.depth,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.kv_heads or shape.heads,
                intermediate_size=shape.ffn_width,
                rms_norm_eps=shape.eps,
                tie_word_embeddings=config.tied,
                rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
                max_position_embeddings=config.max_length,
            )
        )
    whole = split_state(decoder, build_empty(config.build).state_dict().keys())
    tensors = export_tensors(whole, hf_keys(config))
    if config.tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    peer.load_state_dict(tensors)
    peer.tie_weights()
    return peer.to(next(decoder.parameters()).dtype).eval()
