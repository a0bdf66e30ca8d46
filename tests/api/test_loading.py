"""Loading: peak memory, dtype, device and int8 of a published folder; only what can read it is imported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import polymodal as pm
from polymodal import systems
from polymodal.check import randomise
from polymodal.check.demo import write_config, write_weights
from polymodal.errors import ConfigError, WeightsError
from polymodal.nn.quantise import Int8Linear
from polymodal.weights import placement as placements

SIZEABLE = {
    "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_token_index": 8000,
    "vision_config": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 8,
                      "image_size": 112, "patch_size": 14},
    "text_config": {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4,
                    "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 8064},
}  # fmt: skip
TINY = {
    **SIZEABLE, "image_token_index": 90,
    "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                      "image_size": 28, "patch_size": 14},
    "text_config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99},
}  # fmt: skip
SHARDS = 5


def published(folder: Path, config: dict, dtype: torch.dtype = torch.float32) -> Path:
    """A folder of random weights in several shards, as the library saves it; one tensor in memory at a time."""
    spec = systems.get("llava-1.5").formats[0].model_spec(config)
    with torch.device("meta"):
        state = spec.build().state_dict()
    folder.mkdir(exist_ok=True)
    names = {name: x.shape for name, x in spec.keys[0].inverse().apply(state)}
    write_config(folder, config=config)
    listed = sorted(names)
    weight_map = {name: f"model-{1 + i * SHARDS // len(listed):05}-of-{SHARDS:05}.safetensors"
                  for i, name in enumerate(listed)}  # fmt: skip
    for shard in sorted(set(weight_map.values())):
        kept = {name: torch.randn(names[name]).mul_(0.02).to(dtype) for name in listed if weight_map[name] == shard}
        save_file(kept, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.fixture(scope="module")
def sizeable(tmp_path_factory) -> dict[str, Path]:
    """310 MB in float32, and the same in bfloat16."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("float32", "bfloat16")}
    for name, folder in made.items():
        published(folder, SIZEABLE, getattr(torch, name))
    return made


MEASURED = """
import json, sys
import torch
import polymodal as pm
from polymodal.api import folder, model, published
from polymodal.nn.quantise import quantise_rows
from polymodal.systems import candidates
from polymodal.weights import folder, load
import safetensors.torch

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

path, options = sys.argv[1], json.loads(sys.argv[2])
quantise_rows(torch.randn(4, 64).bfloat16())  # brings the code of torch's operations into memory, as imports do
candidates(json.load(open(f"{path}/config.json")))
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
before = status("VmRSS")
model = pm.load(path, device="cpu", **options)
peak = status("VmHWM") - before
state = [*model.module.parameters(), *model.module.buffers()]
print(json.dumps({"peak": peak, "size": sum(x.nbytes for x in state), "dtype": str(state[0].dtype)}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads peak memory as Linux tells it")
@pytest.mark.parametrize(
    ("stored", "options", "dtype"),
    [
        ("float32", {}, "float32"),
        ("bfloat16", {}, "bfloat16"),
        ("float32", {"dtype": "bfloat16"}, "bfloat16"),
        ("bfloat16", {"quantise": "int8"}, "bfloat16"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else value,
)
def test_peak_memory_is_the_model_at_its_dtype(sizeable, stored, options, dtype):
    """At most 1.1 times what the loaded model holds, beside what the imports took."""
    command = [sys.executable, "-c", MEASURED, str(sizeable[stored]), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["dtype"] == f"torch.{dtype}" and found["size"] > 100e6
    assert found["peak"] <= 1.1 * found["size"], f"{found['peak'] / found['size']:.2f} times the model"


@pytest.fixture
def tiny(tmp_path) -> Path:
    return published(tmp_path / "tiny", TINY)


def batch() -> dict[str, torch.Tensor]:
    row = [5, 6, *[90] * 4, 8, 9]
    return {"input_ids": torch.tensor([row]), "pixel_values": randomise.values("pixels", (1, 3, 28, 28))}


def recast(folder: Path, dtype: torch.dtype, where: str = "") -> None:
    """Store the floating tensors whose names hold `where` in another dtype."""
    for shard in folder.glob("*.safetensors"):
        with safe_open(shard, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file({name: x.to(dtype) if where in name else x for name, x in tensors.items()}, shard)


@pytest.mark.parametrize(
    ("stored", "found"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32"), ("float64", "float32")],
)
def test_the_dtype_is_the_checkpoint_s_own(tiny, stored, found):
    recast(tiny, getattr(torch, stored))
    assert {str(p.dtype) for p in pm.load(tiny, device="cpu").module.parameters()} == {f"torch.{found}"}


def test_the_dtype_is_that_of_most_numbers_or_the_one_named(tiny):
    recast(tiny, torch.bfloat16, "weight")
    assert pm.load(tiny).module.backbone.norm.weight.dtype == torch.bfloat16
    for dtype in ("float16", torch.float16, "torch.float16"):
        assert {p.dtype for p in pm.load(tiny, dtype=dtype).module.parameters()} == {torch.float16}


def test_dtypes_agree_in_what_they_answer(tiny):
    exact = pm.load(tiny).logits(**batch())
    for options, tolerance in (
        ({"dtype": "bfloat16"}, 0.03),
        ({"dtype": "float16"}, 5e-3),
        ({"quantise": "int8"}, 0.03),
        ({"quantise": "int4"}, 0.3),
    ):
        found = pm.load(tiny, **options).logits(**batch())
        assert (found.float() - exact).abs().max() / exact.abs().max() < tolerance, options


def test_int8_is_of_the_language_model_alone(tiny, tmp_path):
    model = pm.load(tiny, quantise="int8")
    whole = pm.load(tiny)
    layers = {name for name, part in model.module.named_modules() if isinstance(part, Int8Linear)}
    assert len(layers) == 2 * 7 + 1 and all(name.startswith("backbone.") for name in layers)
    assert model.variant.parameters == whole.variant.parameters
    ids = model.generate(**batch(), max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert ids.shape == (1, 12)
    with pytest.raises(ConfigError, match="quantised weights cannot be saved"):
        model.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    saved = whole.save(tmp_path / "saved")
    again = pm.load(saved, quantise="int8")
    assert torch.equal(again.logits(**batch()), model.logits(**batch()))
    assert again.variant.parameters == whole.variant.parameters


def test_int8_needs_a_language_model(tmp_path):
    config = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
              "num_attention_heads": 4, "image_size": 28, "patch_size": 14}  # fmt: skip
    spec = systems.get("clip").formats[2].model_spec(config)
    write_config(tmp_path, config=config)
    write_weights(tmp_path, spec.build(), spec.keys[0])
    assert pm.load(tmp_path).system.id == "clip"
    with pytest.raises(ConfigError, match="no language model with linears"):
        pm.load(tmp_path, quantise="int8")


@pytest.mark.parametrize("format", ["torch", "torch shards", "one safetensors"])
def test_other_ways_to_store_weights_give_the_same(tiny, tmp_path, format):
    wanted = pm.load(tiny).logits(**batch())
    tensors = {}
    for shard in tiny.glob("*.safetensors"):
        with safe_open(shard, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(tiny / "config.json", other)
    if format == "torch":
        torch.save(tensors, other / "pytorch_model.bin")
    elif format == "one safetensors":
        save_file(tensors, other / "model.safetensors")
    else:
        names = sorted(tensors)
        parts = {"a.bin": names[::2], "b.bin": names[1::2]}
        for shard, kept in parts.items():
            torch.save({name: tensors[name] for name in kept}, other / shard)
        weight_map = {name: shard for shard, kept in parts.items() for name in kept}
        (other / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(pm.load(other).logits(**batch()), wanted)


def test_a_missing_shard_or_name_is_told_before_memory_is_taken(tiny, monkeypatch):
    from polymodal.weights import load

    monkeypatch.setattr(load, "_materialise", lambda *_: pytest.fail("memory was taken"))
    shard = sorted(tiny.glob("*.safetensors"))[1]
    kept = shard.read_bytes()
    shard.unlink()
    with pytest.raises(WeightsError, match=rf"{shard.name}: there is no such file"):
        pm.load(tiny)
    shard.write_bytes(kept)
    index = json.loads((tiny / "model.safetensors.index.json").read_text())
    name = next(name for name, file in index["weight_map"].items() if file == shard.name)
    del index["weight_map"][name]
    (tiny / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="is not filled"):
        pm.load(tiny)


def test_the_files_may_go_once_a_model_is_loaded(tiny):
    """Without mmap nothing of a file stays in use: it may be written over, cut or removed."""
    model = pm.load(tiny, mmap=False)
    wanted = model.logits(**batch())
    for shard in tiny.glob("*.safetensors"):
        with shard.open("r+b") as file:
            file.truncate(100)
    assert torch.equal(model.logits(**batch()), wanted)


def test_mapped_files_may_be_replaced_and_are_never_written(tiny):
    model = pm.load(tiny)
    wanted = model.logits(**batch())
    kept = {shard: shard.read_bytes() for shard in tiny.glob("*.safetensors")}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert all(shard.read_bytes() == bytes for shard, bytes in kept.items()), "training changes a copy"
    model = pm.load(tiny)
    for shard in kept:
        shard.with_suffix(".new").write_bytes(b"other weights")
        shard.with_suffix(".new").replace(shard)
    assert torch.equal(model.logits(**batch()), wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mapped_or_read_weights_are_equal(tiny, dtype):
    mapped, read = (pm.load(tiny, dtype=dtype, mmap=mmap).module.state_dict() for mmap in (True, False))
    assert mapped.keys() == read.keys()
    assert all(torch.equal(mapped[name], read[name]) for name in mapped)


IMPORTED = """
import sys
import polymodal as pm
pm.load(sys.argv[1])
print(*sorted({name.split(".")[2] for name in sys.modules if name.startswith("polymodal.systems.")}))
"""


def test_recognising_a_folder_imports_the_systems_that_can_read_it(tiny):
    done = subprocess.run([sys.executable, "-c", IMPORTED, str(tiny)], capture_output=True, text=True, check=True)
    assert [name for name in done.stdout.split() if not name.startswith("_")] == ["llava_1_5"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float33"}, "unknown dtype 'float33'; expected auto, float32, bfloat16, float16"),
        ({"dtype": torch.int8}, "unknown dtype 'int8'.*quantise='int8'"),
        ({"dtype": torch.float8_e4m3fn}, "unknown dtype 'float8_e4m3fn'.*quantise='int8'"),
        ({"device": "gpu"}, "unknown device 'gpu'; expected auto, cpu, cuda"),
        ({"device": "meta"}, "no device 'meta' here"),
        ({"device": "cuda:99"}, "no device 'cuda:99' here"),
        ({"quantise": "int2"}, "unknown quantise 'int2'; expected int8, int4"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_read(options, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        pm.load(tmp_path / "nothing", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
@pytest.mark.parametrize("name", ["cuda", "mps", "xpu"])
def test_an_accelerator_that_is_not_there(name, tiny):
    with pytest.raises(ConfigError, match=f"there is no device '{name}' here.*; use device='cpu'"):
        pm.load(tiny, device=torch.device(name))
    assert next(pm.load(tiny).module.parameters()).device.type == "cpu"


@pytest.mark.parametrize(("free", "device"), [(10**9, "cuda"), (10**6, "cpu")])
def test_auto_takes_a_cuda_device_with_room(monkeypatch, free, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 10**10))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    place = placements.placement()
    assert place.of(torch.float32, 10**6)[0].type == device
    found, dtype = place.of(torch.float16, 10**7)
    assert (found.type, dtype) == (("cuda", torch.float16) if device == "cuda" else ("cpu", torch.float32))
    assert placements.placement("cpu", torch.bfloat16).of(torch.float16, 1)[1] == torch.bfloat16
