"""The same weights in llama.cpp, through the wheel `xllamacpp` where it is installed.

    write_gguf(path, decoder, shape, "F32" | "Q8_0") -> LlamaCpp(path, threads).run(ids, new) -> Written

The file is written by us from the weights that are measured; it has names for tokens instead of a vocabulary, since
prompts are ids and answers are compared as ids.  llama.cpp times itself, without HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.backbones.decoder import Decoder
from polymodal.backbones.llama import LlamaShape, gguf_keys
from polymodal.errors import WeightsError
from polymodal.nn.fuse import split_state
from polymodal.weights.build import build_empty
from polymodal.weights.export import export_tensors

CONTEXT = 1024


@dataclass(frozen=True, kw_only=True)
class Written:
    """Tokens a second of reading the prompt and of each further token, and the ids of the answer."""

    prefill: float
    decode: float
    ids: list[int]


def write_gguf(path: Path, decoder: Decoder, shape: LlamaShape, kind: str) -> None:
    """Matrices as `kind`, norms as float32."""
    import gguf

    config = decoder.config
    whole = split_state(decoder, build_empty(config.build).state_dict().keys())
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_length)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn_width)
    writer.add_block_count(shape.depth)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads or shape.heads)
    writer.add_rope_freq_base(shape.theta)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"t{index}" for index in range(config.vocab_size)])
    writer.add_token_merges(["t 1"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id):
        add(config.vocab_size - 1)
    packed = gguf.GGMLQuantizationType[kind]
    for name, tensor in export_tensors(whole, gguf_keys(config)).items():
        values = np.ascontiguousarray(tensor.detach().float().numpy())
        if values.ndim == 2 and kind != "F32":
            writer.add_tensor(name, gguf.quants.quantize(values, packed), raw_dtype=packed)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """One loaded file."""

    def __init__(self, path: Path, threads: int) -> None:
        import xllamacpp  # type: ignore[import-not-found,unused-ignore]

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = CONTEXT
        params.n_batch = params.n_ubatch = 512
        params.n_parallel, params.n_gpu_layers = 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.warmup, params.verbosity = True, -1
        self._server = xllamacpp.Server(params)

    def run(self, ids: Sequence[int], new: int) -> Written:
        """A greedy answer of `new` tokens to a prompt of ids; nothing is kept from one to the next."""
        answer: Any = self._server.handle_completions(
            {
                "prompt": list(ids),
                "n_predict": new,
                "temperature": 0.0,
                "samplers": ["top_k"],
                "top_k": 1,
                "cache_prompt": False,
            }
        )
        answer = json.loads(answer) if isinstance(answer, str) else answer
        if "timings" not in answer:
            raise WeightsError(f"llama.cpp answered {str(answer)[:200]}")
        times = answer["timings"]
        return Written(
            prefill=1000 * times["prompt_n"] / times["prompt_ms"],
            # Its clock begins with the first token, which came from the prompt.
            decode=1000 * max(times["predicted_n"] - 1, 0) / max(times["predicted_ms"], 1e-3),
            ids=[int(name) for name in answer["choices"][0]["text"].split("t")[1:]],
        )
