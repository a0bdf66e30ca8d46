"""A folder whose weights are packed loads as the model with the unpacked numbers, or is refused by one line."""

import json
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import polymodal as pm
from polymodal.errors import WeightsError
from polymodal.weights import hub

VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
TEXT = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUP = 16
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def words(numbers: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """[N, M] of 4 bits -> int32 [N, M / 8]."""
    runs = numbers.long().view(len(numbers), -1, 8)[..., list(order)]
    return (runs << torch.arange(0, 32, 4)).sum(-1).to(torch.uint32).view(torch.int32)


def groups_of(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers of 4 bits, zero points and scales of runs of 16 columns, and the weight that they stand for."""
    runs = weight.view(len(weight), -1, GROUP)
    low = runs.amin(-1).clamp(max=0)
    scale = ((runs.amax(-1).clamp(min=0) - low) / 14 + 1e-4).half().float()
    zero = (-low / scale).round().clamp(1, 15)
    q = (runs / scale[..., None] + zero[..., None]).round().clamp(0, 15)
    return q.view(weight.shape), zero, scale, ((q - zero[..., None]) * scale[..., None]).view(weight.shape)


def gptq(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    q, zero, scale, plain = groups_of(weight)
    layer = name.removesuffix("weight")
    packed = {"qweight": words(q).t(), "qzeros": words(zero.t() - 1), "scales": scale.t().half(),
              "g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // GROUP}  # fmt: skip
    if "language_model" in name:
        packed["bias"] = torch.zeros(len(weight)).half()  # as AutoGPTQ writes, for layers without one too
    return {layer + leaf: x for leaf, x in packed.items()}, plain


def awq(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    q, zero, scale, plain = groups_of(weight)
    layer = name.removesuffix("weight")
    return {f"{layer}qweight": words(q.t(), ORDER), f"{layer}qzeros": words(zero.t(), ORDER),
            f"{layer}scales": scale.t().half()}, plain  # fmt: skip


def bits_8(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    largest = weight.abs().amax(1)
    q = (weight / largest[:, None] * 127).round().to(torch.int8)
    return {name: q, name.removesuffix("weight") + "SCB": largest}, q * largest[:, None] / 127


def bits_4(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    codes, size = torch.linspace(-1, 1, 16), 64
    runs = weight.view(-1, size)
    scale = runs.abs().amax(1)
    places = (runs / scale[:, None] - codes[:, None, None]).abs().argmin(0)
    state = json.dumps({"quant_type": "nf4", "blocksize": size, "dtype": "float16", "shape": list(weight.shape)})
    flat = places.flatten()
    return {name: (flat[0::2] << 4 | flat[1::2]).byte()[:, None], f"{name}.absmax": scale, f"{name}.quant_map": codes,
            f"{name}.quant_state.bitsandbytes__nf4": torch.tensor(list(state.encode()), dtype=torch.uint8),
            }, (codes[places] * scale[:, None]).view(weight.shape)  # fmt: skip


def float8(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    down, across = (math.ceil(side / 24) for side in weight.shape)
    scale = torch.rand(down, across) + 0.5
    wide = scale.repeat_interleave(24, 0)[: len(weight)].repeat_interleave(24, 1)[:, : weight.shape[1]]
    q = (weight / wide).to(torch.float8_e4m3fn)
    return {name: q, f"{name}_scale_inv": scale}, q.float() * wide


def compressed(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    q, zero, scale, plain = groups_of(weight)
    layer = name.removesuffix("weight")
    packed = {"packed": words(q), "scale": scale, "zero_point": words(zero.t()).t(), "shape": torch.tensor(q.shape)}
    return {f"{layer}weight_{leaf}": x for leaf, x in packed.items()}, plain


METHODS = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}),
    "8 bits": (bits_8, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "4 bits": (bits_4, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "float8": (float8, {"quant_method": "fp8", "weight_block_size": [24, 24]}),
    "words": (compressed, {"quant_method": "compressed-tensors", "format": "pack-quantized",
                           "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": GROUP}}}}),
}  # fmt: skip


@pytest.fixture
def llava(tmp_path):
    """A tiny LLaVA of random weights, saved by transformers."""
    torch.manual_seed(0)
    config = transformers.LlavaConfig(vision_config=transformers.CLIPVisionConfig(**VISION),
                                      text_config=transformers.LlamaConfig(**TEXT), image_token_index=98)  # fmt: skip
    model = transformers.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.copy_(torch.randn(x.shape) * 0.25)
    model.save_pretrained(tmp_path / "packed")
    return model, tmp_path / "packed"


def pack(folder, method, config) -> dict[str, torch.Tensor]:
    """Pack every linear of the blocks in place; the plain weights by their names on disk."""
    path = folder / "model.safetensors"
    packed, plain = {}, {}
    for name, x in load_file(path).items():
        linear = name.endswith(".weight") and x.dim() == 2 and ".layers." in name and "norm" not in name
        found, plain[name] = method(name, x) if linear else ({name: x}, x)
        packed |= {each: x for each, x in found.items() if each not in packed or not each.endswith(".bias")}
    save_file({name: x.clone().contiguous() for name, x in packed.items()}, path)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | ({"quantization_config": config} if config else {})))
    return plain


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 90, (2, 12), generator=torch.Generator().manual_seed(1))
    ids[:, 2:6] = 98
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(2))}


@pytest.mark.parametrize("kind", METHODS)
def test_a_packed_llava_is_the_model_with_the_unpacked_numbers(llava, kind, tmp_path):
    exact, folder = llava
    method, config = METHODS[kind]
    unpacked = tmp_path / "unpacked"
    exact.save_pretrained(unpacked)
    plain = {name: x.contiguous() for name, x in pack(folder, method, config).items()}
    save_file(plain, unpacked / "model.safetensors")
    reference = transformers.LlavaForConditionalGeneration.from_pretrained(unpacked).eval()
    model, half = pm.load(folder, dtype="float32"), pm.load(folder, dtype="bfloat16")
    assert model.system.id == "llava-1.5" and model.module.backbone.norm.weight.dtype == torch.float32
    assert all(x.dtype == torch.bfloat16 for x in half.module.parameters())
    with torch.no_grad():
        wanted = reference(**batch()).logits
        assert (exact(**batch()).logits - wanted).abs().max() > 1e-3
    assert (model.logits(**batch()) - wanted).abs().max() <= 1e-4
    again = pm.load(folder, quantise="int8").logits(**batch())
    assert (again - wanted).abs().max() / wanted.abs().max() < 0.05


@pytest.mark.parametrize(("kind", "dtype"), [("float8", torch.bfloat16), ("gptq", torch.float32)])
def test_it_is_computed_in_what_it_was_made_for(llava, kind, dtype):
    """float16 is float32 on a CPU."""
    _, folder = llava
    pack(folder, *METHODS[kind])
    path = folder / "model.safetensors"
    save_file({name: x.bfloat16() if x.dtype == torch.float32 and "scale" not in name and kind == "float8" else x
               for name, x in load_file(path).items()}, path)  # fmt: skip
    assert pm.load(folder, device="cpu").module.backbone.norm.weight.dtype == dtype


def test_a_bitsandbytes_folder_that_does_not_say_so(llava):
    _, folder = llava
    pack(folder, bits_8, None)
    assert pm.load(folder).can[0] == "logits"


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("gptq", None, "is quantised .it holds .*qweight.*but no config.json with a quantization_config says how"),
        ("gptq", {"quant_method": "hqq"}, "is quantised with hqq, which is not read; load the unquantised checkpoint"),
        ("awq", {"quant_method": "awq", "version": "gemv_fast"}, "awq with version 'gemv_fast' and 4 bits"),
        ("8 bits", {"quant_method": "quanto"}, "is quantised with quanto, which is not read"),
    ],
)
def test_what_is_not_read_is_refused_by_name(llava, kind, config, words):
    _, folder = llava
    pack(folder, METHODS[kind][0], config)
    with pytest.raises(WeightsError, match=words) as caught:
        pm.load(folder)
    assert "\n" not in str(caught.value)


def test_a_packing_that_is_not_read_costs_its_config_only(llava, monkeypatch):
    """A repository of the hub is refused before its weights are fetched."""
    _, folder = llava
    pack(folder, gptq, {"quant_method": "aqlm"})

    def fetch(name, revision, progress=None, offline=False, check=None):
        check(folder / "config.json")
        raise AssertionError("its weights would be fetched")

    monkeypatch.setattr(hub, "fetch_repository", fetch)
    with pytest.raises(WeightsError, match=r"hub lab/tiny@main is quantised with aqlm, which is not read"):
        pm.load("lab/tiny")


def test_settings_in_a_file_of_their_own(llava):
    _, folder = llava
    pack(folder, gptq, None)
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": GROUP}))
    assert pm.load(folder).system.id == "llava-1.5"


def test_whole_numbers_are_never_taken_for_weights(llava):
    """A packing that nobody announces: int8 weights without their scales."""
    _, folder = llava
    path = folder / "model.safetensors"
    save_file({name: x.to(torch.int8) if "q_proj.weight" in name else x for name, x in load_file(path).items()}, path)
    with pytest.raises(WeightsError, match=r"holds numbers of type (I8|int8), expected a floating type"):
        pm.load(folder)
