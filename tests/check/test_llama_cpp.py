"""The file that `bench` writes for llama.cpp holds the weights that are measured; where llama.cpp is, ids are equal."""

from dataclasses import replace

import pytest
import torch

from polymodal.backbones.llama import SHAPES, gguf_keys
from polymodal.check import llama_cpp
from polymodal.nn.fuse import fuse_projections
from polymodal.weights.load import load_into
from polymodal.weights.read import read_gguf

SHAPE = replace(SHAPES["smollm2-135m"], width=64, depth=2, heads=4, kv_heads=2, ffn_width=96, vocab_size=300)


@torch.no_grad()
def decoder():
    torch.manual_seed(0)
    built = SHAPE.config().build().eval()
    for parameter in built.parameters():
        parameter.normal_(std=0.2).add_(1.0 if parameter.dim() == 1 else 0.0)
    return built


@pytest.mark.parametrize("kind, tolerance", [("F32", 0.0), ("Q8_0", 0.01)])
def test_the_file_holds_the_weights(tmp_path, kind, tolerance) -> None:
    built = decoder()
    whole = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    fuse_projections(built)
    path = tmp_path / "model.gguf"
    llama_cpp.write_gguf(path, built, SHAPE, kind)
    again = built.config.build()
    load_into(again, read_gguf(path), gguf_keys(built.config))
    for name, tensor in again.state_dict().items():
        assert (tensor - whole[name]).abs().max() <= tolerance, name


def test_the_same_ids(tmp_path) -> None:
    pytest.importorskip("xllamacpp")
    built, ids = decoder(), [5, 8, 13, 21, 34]
    path = tmp_path / "model.gguf"
    llama_cpp.write_gguf(path, built, SHAPE, "F32")
    written = llama_cpp.LlamaCpp(path, 1).run(ids, 6).ids
    rest = list(ids)
    with torch.inference_mode():
        for _ in range(6):
            hidden = built(built.embed(torch.tensor([rest])), torch.arange(len(rest))[None])
            rest.append(int(built.head(hidden[:, -1]).argmax()))
    assert written == rest[len(ids) :]
