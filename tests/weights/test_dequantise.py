"""Packed weights come back as the numbers they were packed from, by the formats' own descriptions.

The packers here are written number by number from those descriptions; `fixtures/packed_by_libraries.safetensors` holds
what the libraries themselves wrote and computed.
"""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from polymodal.errors import ConfigError, WeightsError
from polymodal.weights import dequantise
from polymodal.weights.derived import Derivation, DerivedTensors
from polymodal.weights.keytable import KeyTable
from polymodal.weights.quantised import METHODS, quantisation_of, unquantised, without_spare_biases
from polymodal.weights.read import read_safetensors

COMPRESSED = {"quant_method": "compressed-tensors"}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def words_of(numbers: np.ndarray, bits: int, order: tuple[int, ...] | None = None) -> np.ndarray:
    """uint [..., n] -> int32 [..., ceil(n * bits / 32)]; the i-th number of a word is column order[i] of its run."""
    each = 32 // bits
    order = order or tuple(range(each))
    wide = math.ceil(numbers.shape[-1] / each)
    words = np.zeros((*numbers.shape[:-1], wide), np.uint64)
    for place in np.ndindex(*numbers.shape[:-1], wide):
        for i, column in enumerate(order):
            index = place[-1] * each + column
            if index < numbers.shape[-1]:
                words[place] |= np.uint64(int(numbers[(*place[:-1], index)]) << (i * bits))
    return words.astype(np.uint32).view(np.int32)


def chosen(seed: int, *shape: int, bits: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**bits, shape)


def scales(seed: int, *shape: int) -> torch.Tensor:
    """Powers of two: products are exact in every dtype."""
    return torch.from_numpy(2.0 ** np.random.default_rng(seed).integers(-6, 2, shape)).half()


def tensor(words: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(words))


@given(bits=st.sampled_from((2, 4, 8)), rows=st.integers(1, 4), words=st.integers(1, 4), seed=st.integers(0, 2**20))
def test_words_come_apart_as_they_were_put_together(bits, rows, words, seed):
    numbers = chosen(seed, rows, words * 32 // bits, bits=bits)
    words = tensor(words_of(numbers, bits))
    assert torch.equal(dequantise.unpack(words, dequantise.words_table(bits)), torch.from_numpy(numbers).float())


@settings(deadline=None, max_examples=40)
@given(bits=st.sampled_from((2, 4, 8)), version=st.sampled_from(("gptq", "gptq_v2")), order=st.booleans(),
       groups=st.integers(1, 3), seed=st.integers(0, 2**20))  # fmt: skip
def test_gptq(bits, version, order, groups, seed):
    """Symmetric and not, groups in order of activation and not, layers of their own width in bits."""
    width, out, each = 32 * groups, 32, 32 // bits
    q, z, s = chosen(seed, width, out, bits=bits), chosen(seed + 1, groups, out, bits=bits), scales(seed, groups, out)
    group = np.arange(width) // 32
    if order:
        np.random.default_rng(seed).shuffle(group)
    wanted = s.float()[group] * torch.from_numpy(q - z[group])
    stored = (z - 1) % 2**bits if version == "gptq" else z
    file = {
        "a.qweight": tensor(words_of(q.T, bits).T), "a.qzeros": tensor(words_of(stored, bits)), "a.scales": s,
        "a.g_idx": torch.from_numpy(group).int(), "a.bias": torch.ones(out), "norm.weight": torch.ones(3),
    }  # fmt: skip
    if not order and seed % 2:
        del file["a.g_idx"]
    read = unquantised(file, {"quant_method": "gptq", "bits": bits, "checkpoint_format": version})
    assert set(read) == {"a.weight", "a.bias", "norm.weight"} and read.shape("a.weight") == (out, width)
    assert file["a.qweight"].shape == (width // each, out)
    assert torch.equal(read["a.weight"], wanted.T) and read["a.weight"].dtype == torch.float32


@settings(deadline=None, max_examples=20)
@given(groups=st.integers(1, 3), words=st.integers(1, 3), seed=st.integers(0, 2**20))
def test_awq(groups, words, seed):
    width, out = 16 * groups, 8 * words
    q, z, s = chosen(seed, width, out), chosen(seed + 1, groups, out), scales(seed, groups, out)
    group = np.arange(width) // 16
    packed = [tensor(words_of(x, 4, AWQ_ORDER)) for x in (q, z)]
    file = {"a.qweight": packed[0], "a.qzeros": packed[1], "a.scales": s}
    read = unquantised(file, {"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True})
    assert torch.equal(read["a.weight"], (s.float()[group] * torch.from_numpy(q - z[group])).T)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 9), width=st.integers(1, 40), size=st.sampled_from((4, 64)), seed=st.integers(0, 2**20),
       nested=st.booleans(), storage=st.sampled_from((torch.uint8, torch.bfloat16)))  # fmt: skip
def test_bitsandbytes_4_bits(rows, width, size, seed, nested, storage):
    """A codebook of 16, the high half of a byte first; scales of their own codebook of 256."""
    chance = np.random.default_rng(seed)
    count = rows * width
    places = chance.integers(0, 16, count + count % 2 + 2 * ((count + 1) // 2 % 2))
    packed = torch.from_numpy((places[0::2] << 4 | places[1::2]).astype(np.uint8)).view(storage)[:, None]
    codes = torch.from_numpy(np.sort(chance.standard_normal(16))).float()
    blocks = math.ceil(count / size)
    name = "a.weight.quant_state.bitsandbytes__nf4"
    state = {"quant_type": "nf4", "blocksize": size, "dtype": "float16", "shape": [rows, width]}
    file = {"a.weight": packed, "a.weight.quant_map": codes}
    if nested:
        outer = torch.from_numpy(chance.standard_normal(256)).float()
        picked, size_2 = chance.integers(0, 256, blocks), 4
        scale_2 = torch.from_numpy(chance.standard_normal(math.ceil(blocks / size_2))).float()
        file |= {"a.weight.absmax": torch.from_numpy(picked).byte(), "a.weight.nested_absmax": scale_2,
                 "a.weight.nested_quant_map": outer}  # fmt: skip
        state |= {"nested_blocksize": size_2, "nested_dtype": "float32", "nested_offset": 0.5}
        scale = np.array([outer[picked[i]] * scale_2[i // size_2] + np.float32(0.5) for i in range(blocks)])
    else:
        scale = chance.standard_normal(blocks).astype(np.float32)
        file["a.weight.absmax"] = torch.from_numpy(scale)
    file[name] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    wanted = [codes[places[i]] * float(scale[i // size]) for i in range(count)]
    for config in (None, {"quant_method": "bitsandbytes", "load_in_4bit": True}):
        read = unquantised(file, config)
        assert list(read) == ["a.weight"] and read.shape("a.weight") == (rows, width)
        torch.testing.assert_close(read["a.weight"], torch.tensor(wanted).view(rows, width), rtol=1e-6, atol=1e-7)


def test_bitsandbytes_8_bits():
    q = torch.randint(-127, 128, (5, 7), dtype=torch.int8)
    largest = torch.rand(5) + 0.1
    rows, other = (torch.tensor(form, dtype=torch.uint8) for form in (0, 2))
    file = {"a.weight": q, "a.SCB": largest, "a.weight_format": rows, "a.bias": torch.ones(5)}
    read = unquantised(file, {"load_in_8bit": True, "quant_method": "bitsandbytes"})
    assert set(read) == {"a.weight", "a.bias"}
    torch.testing.assert_close(read["a.weight"], q * largest[:, None] / 127, rtol=1e-6, atol=0)
    with pytest.raises(WeightsError, match="order of one kind of GPU"):
        unquantised({**file, "a.weight_format": other})


@pytest.mark.parametrize("block", [(4, 4), (3, 5), None])
def test_float8_by_blocks_and_as_a_whole(block):
    weight = torch.randn(10, 13).to(torch.float8_e4m3fn)
    down, across = block or (10, 13)
    scale = torch.rand(math.ceil(10 / down), math.ceil(13 / across)) + 0.5
    wanted = [[weight[i, j].float() * scale[i // down, j // across] for j in range(13)] for i in range(10)]
    file = {"a.weight": weight, "a.weight_scale_inv": scale if block else scale[0, 0], "a.input_scale": torch.ones(1)}
    read = unquantised(file, {"quant_method": "fp8", "weight_block_size": None if block is None else list(block)})
    assert list(read) == ["a.weight"] and torch.equal(read["a.weight"], torch.tensor(wanted))


@settings(deadline=None, max_examples=30)
@given(bits=st.sampled_from((4, 8)), groups=st.sampled_from((1, 3)), zeros=st.booleans(), order=st.booleans(),
       rows=st.integers(1, 11), seed=st.integers(0, 2**20))  # fmt: skip
def test_compressed_tensors_words(bits, groups, zeros, order, rows, seed):
    width, half = 15 * groups, 2 ** (bits - 1)
    q, z = chosen(seed, rows, width, bits=bits) - half, chosen(seed + 1, rows, groups, bits=bits) - half
    s = scales(seed, rows, groups)
    group = np.arange(width) // 15
    if order:
        np.random.default_rng(seed).shuffle(group)
    wanted = s.float()[:, group] * torch.from_numpy(q - (z[:, group] if zeros else 0))
    file = {"a.weight_packed": tensor(words_of(q + half, bits)), "a.weight_scale": s,
            "a.weight_shape": torch.tensor([rows, width])}  # fmt: skip
    if zeros:
        file["a.weight_zero_point"] = tensor(words_of((z + half).T, bits).T)
    if order:
        file["a.weight_g_idx"] = torch.from_numpy(group).int()
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized",
              "config_groups": {"group_0": {"weights": {"num_bits": bits, "group_size": 15}}}}  # fmt: skip
    read = unquantised(file, config)
    assert list(read) == ["a.weight"] and torch.equal(read["a.weight"], wanted)


def test_compressed_tensors_numbers_with_scales():
    q, s, z = torch.randint(-128, 128, (4, 6), dtype=torch.int8), torch.rand(4, 1), torch.randint(-5, 5, (4, 1)).char()
    eight = torch.randn(4, 6).to(torch.float8_e4m3fn)
    file = {"a.weight": q, "a.weight_scale": s, "a.weight_zero_point": z, "b.weight": eight, "b.weight_scale": s[:1, 0],
            "c.weight": eight, "c.weight_scale": torch.tensor([[2.0, 3.0], [4.0, 5.0]]), "k.k_scale": s}  # fmt: skip
    groups = {"0": {"weights": {"num_bits": 8}}, "1": {"weights": {"num_bits": 8, "block_structure": [2, 3]}}}
    read = unquantised(file, {**COMPRESSED, "format": "naive-quantized", "config_groups": groups})
    assert set(read) == {"a.weight", "b.weight", "c.weight"}
    torch.testing.assert_close(read["a.weight"], (q.float() - z) * s)
    assert torch.equal(read["b.weight"], eight.float() * s[0])
    assert torch.equal(read["c.weight"][3, 4], eight[3, 4].float() * 5)


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    q, s = chosen(0, 32, 16), scales(0, 1, 16)
    file = {f"{i}.{name}": x for i in range(3) for name, x in
            {"qweight": tensor(words_of(q.T, 4).T), "qzeros": tensor(words_of(chosen(1, 1, 16), 4)), "scales": s,
             "g_idx": torch.zeros(32, dtype=torch.int32)}.items()}  # fmt: skip
    save_file({name: x.clone().contiguous() for name, x in file.items()}, tmp_path / "model.safetensors")
    stored = read_safetensors(tmp_path / "model.safetensors")
    asked = []
    object.__setattr__(stored, "load", lambda name, load=stored.load: asked.append(name) or load(name))
    read = unquantised(stored, {"quant_method": "gptq", "bits": 4})
    assert [read.shape(name) for name in read] == [(16, 32)] * 3 and not asked
    parts = [f"1.{leaf}" for leaf in ("qweight", "qzeros", "scales", "g_idx")]
    assert read.infos["1.weight"].bytes == sum(stored.infos[name].bytes for name in parts)
    assert read["1.weight"].shape == (16, 32) and sorted(asked) == sorted(parts)
    with pytest.raises(KeyError):
        read["1.qweight"]


BITS_4 = {"quant_method": "gptq", "bits": 4}
PLAIN = {"a.weight": torch.ones(2, 2)}
GPTQ = {"a.qweight": torch.zeros(4, 8, dtype=torch.int32), "a.qzeros": torch.zeros(1, 1, dtype=torch.int32),
        "a.scales": torch.ones(1, 8)}  # fmt: skip
PACKED = {"a.weight_packed": torch.zeros(4, 4, dtype=torch.int32), "a.weight_scale": torch.ones(4, 1),
          "a.weight_shape": torch.tensor([4, 32])}  # fmt: skip


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors"])
def test_plain_tensors_stay_as_they_are_whatever_the_config_says(method):
    assert unquantised(PLAIN, {"quant_method": method, "bits": 4}) is PLAIN
    assert unquantised(PLAIN, None) is PLAIN


@pytest.mark.parametrize(
    ("file", "config", "words"),
    [
        (PLAIN, {"quant_method": "hqq"}, "quantised with hqq, which is not read; load the unquantised checkpoint"),
        (PLAIN, {"quant_method": "exl2"}, "quantised with exl2, which is not read"),
        (PLAIN, {"bits": 4}, "a method without a name"),
        (GPTQ, None, r"holds 'a.qweight'.*no config.json with a quantization_config says how"),
        (PACKED, None, r"holds 'a.weight_packed'"),
        (GPTQ, {**BITS_4, "bits": 3}, "'a' has 3 bits in int32, expected 2, 4 or 8"),
        (GPTQ, {**BITS_4, "checkpoint_format": "marlin"}, "checkpoint_format 'marlin' is not"),
        (GPTQ, {"quant_method": "awq", "version": "gemv"}, r"'gemv' and 4 bits .expected gemm and 4. is not read"),
        (GPTQ, {"quant_method": "bitsandbytes"}, "'a.qweight' is not of bitsandbytes, which config.json names"),
        ({"a.qweight": GPTQ["a.qweight"]}, BITS_4, "layer 'a' lacks 'a.qzeros'"),
        (GPTQ | PLAIN, BITS_4, "'a.weight' is there both plain and packed"),
        (PACKED, {**COMPRESSED, "format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized'"),
        (PACKED, {**COMPRESSED, "sparsity_config": {"format": "sparse-24"}}, "with sparsity or tr"),
        (PACKED | {"a.weight_shape": torch.tensor([4, 99])}, COMPRESSED, "not packed as numb"),
        (PACKED | {"a.weight_shape": torch.tensor([4, -32])}, COMPRESSED, "claims the shape"),
        (PLAIN | {"a.weight_scale": torch.ones(1)}, {"quant_method": "fp8"}, "has weights of float32 and scales of fl"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_in_one_line(file, config, words):
    with pytest.raises(WeightsError, match=words) as caught:
        unquantised(file, config)
    said = str(caught.value)
    assert "\n" not in said and ("unquantised checkpoint" in said or "download" in said)


@pytest.mark.parametrize(
    "state",
    ["{", "[]", '{"shape": [2, 2]}', '{"shape": [9, 9], "blocksize": 64}', '{"shape": [-1, -2], "blocksize": 64}',
     '{"shape": [2, 2], "blocksize": 0}', '{"shape": "ab", "blocksize": 4}'],
)  # fmt: skip
def test_a_damaged_quant_state_is_told(state):
    blob = torch.tensor(list(state.encode()), dtype=torch.uint8)
    file = {"a.weight": torch.zeros(2, 1, dtype=torch.uint8), "a.weight.absmax": torch.ones(1),
            "a.weight.quant_map": torch.ones(16), "a.weight.quant_state.bitsandbytes__nf4": blob}  # fmt: skip
    with pytest.raises(WeightsError, match="layer 'a'"):
        unquantised(file)


def test_scales_that_do_not_cover_are_told_when_the_tensor_is_read():
    read = unquantised({"a.weight": torch.ones(4, 6, dtype=torch.int8), "a.SCB": torch.ones(3)})
    with pytest.raises(WeightsError, match=r"'a.weight' cannot be read from bitsandbytes: scales of shape \(3, 1\)"):
        read["a.weight"]
    with pytest.raises(ConfigError, match="4 groups of scales do not divide 6 columns"):
        dequantise.scaled(torch.ones(2, 6), torch.ones(2, 4))


def test_biases_of_zeros_are_left_out_where_the_model_has_none():
    file = {f"{layer}.{leaf}": x for layer in "abc" for leaf, x in
            {"qweight": GPTQ["a.qweight"], "qzeros": GPTQ["a.qzeros"], "scales": GPTQ["a.scales"]}.items()}  # fmt: skip
    file |= {"a.bias": torch.zeros(8), "b.bias": torch.ones(8), "d.bias": torch.zeros(8), "d.weight": torch.ones(8, 8)}
    read = unquantised(file, BITS_4)
    every = [*read]
    table = KeyTable.of({name: name for name in every})
    assert without_spare_biases(read, (table,), lambda: every) is read
    fewer = without_spare_biases(read, (table,), lambda: [name for name in every if name != "a.bias"])
    assert set(fewer) == set(every) - {"a.bias"} and torch.equal(fewer["b.weight"], read["b.weight"])
    for lacks in ("b.bias", "d.bias"):  # a bias that counts, and one that is not beside packed weights
        targets = [name for name in every if name != lacks]
        assert without_spare_biases(read, (table,), partial(list, targets)) is read


def test_a_tensor_that_is_read_in_parts_is_unpacked_once():
    calls = []
    weight = torch.randn(6, 4)
    made = {"shape": (6, 4), "sources": ("q",), "stored": "x"}
    derived = Derivation(**made, compute=lambda parts: calls.append(1) or parts[0] * 2)
    tensors = DerivedTensors({"q": weight, "b": torch.ones(3)}, {"a": derived}, ("b",))
    out = torch.empty(6, 4, dtype=torch.float64)
    for row in range(6):
        tensors.read_into("a", out[row], 4 * row)
    assert torch.equal(out, weight.double() * 2) and len(calls) == 1
    tensors.read_into("a", out)
    assert len(calls) == 2 and tensors.dtype("a") == torch.float16 and tensors.dtype("b") == torch.float32


def test_where_the_settings_stand(tmp_path):
    said = {"quant_method": "gptq", "bits": 4}
    assert quantisation_of({"quantization_config": said}) == said
    assert quantisation_of({"text_config": {"quantization_config": said}}) == said
    assert quantisation_of({"quantization": {"bits": 4}}) == {"quant_method": "mlx", "bits": 4}
    assert quantisation_of({"text_config": None}, tmp_path) is None
    (tmp_path / "quantize_config.json").write_text('{"bits": 4, "group_size": 128}')
    assert quantisation_of({}, tmp_path) == {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (tmp_path / "quantize_config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"quantize_config.json is damaged"):
        quantisation_of({}, tmp_path)


LIBRARIES = read_safetensors(Path(__file__).parents[1] / "fixtures" / "packed_by_libraries.safetensors")
CASES = sorted({name.partition("/")[0] for name in LIBRARIES})


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_libraries_that_write_such_files(case):
    """What bitsandbytes, AutoGPTQ, AutoAWQ and compressed-tensors packed, and the weights they compute with."""
    file = {name.removeprefix(f"{case}/"): LIBRARIES[name] for name in LIBRARIES if name.startswith(f"{case}/")}
    wanted = file.pop("wanted")
    method, _, rest = case.partition(" ")
    said = {"quant_method": method, "bits": int(rest.split()[0]) if method == "gptq" else 4}
    read = unquantised(file, said | ({"format": "pack-quantized"} if method == "compressed-tensors" else {}))
    assert list(read) == ["layer.weight"]
    # AWQ and 8 bits are computed in half precision there.
    tolerance = 2e-3 if case in ("awq", "bitsandbytes int8") else 1e-6
    torch.testing.assert_close(read["layer.weight"], wanted, rtol=tolerance, atol=1e-6)


def test_every_packing_is_compared():
    assert {case.split()[0] for case in CASES} == set(METHODS) - {"fp8", "fbgemm_fp8"} and len(CASES) == 15


LEAVES = ("weight", "bias", "SCB", "qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale",
          "weight_shape", "weight_zero_point", "weight_scale_inv", "weight.absmax", "weight.quant_map", "weight_format",
          "weight.quant_state.bitsandbytes__nf4", "weight.nested_absmax", "weight.nested_quant_map")  # fmt: skip
DTYPES = (torch.int8, torch.uint8, torch.int32, torch.int64, torch.float32, torch.float16, torch.float8_e4m3fn)
STATE = json.dumps({"shape": [4, 8], "blocksize": 8, "nested_blocksize": 4, "nested_offset": 0.5})
FORMS = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 8), max_size=2))


@settings(deadline=None, max_examples=400, derandomize=True)
@given(leaves=st.dictionaries(st.sampled_from(LEAVES), FORMS, min_size=1, max_size=6),
       method=st.sampled_from((None, *METHODS)), bits=st.sampled_from((2, 3, 4, 8, None)),
       block=st.sampled_from((None, [2, 3])), seed=st.integers(0, 99))  # fmt: skip
def test_any_tensors_are_read_or_refused_in_one_line(leaves, method, bits, block, seed):
    chance = torch.Generator().manual_seed(seed)
    file = {f"a.{name}": torch.randint(0, 9, form, generator=chance).to(kind) for name, (kind, form) in leaves.items()}
    blob = "a.weight.quant_state.bitsandbytes__nf4"
    if seed % 2 and blob in file:
        file[blob] = torch.tensor(list(STATE.encode()), dtype=torch.uint8)
    said = None if method is None else {"quant_method": method, "bits": bits, "weight_block_size": block}
    try:
        read = unquantised(file, said)
        for name in read:
            assert tuple(read[name].shape) == (file[name].shape if read is file else read.shape(name))
    except WeightsError as problem:
        assert "\n" not in str(problem)
