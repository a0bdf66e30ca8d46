"""A file or folder that is no model says in one line what it is and what to use, wherever it is given."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import polymodal as pm
from polymodal import systems
from polymodal.check import randomise
from polymodal.check.demo import write_config, write_weights
from polymodal.cli.app import run
from polymodal.errors import ConfigError, PolymodalError

TINY = Path(__file__).parents[1] / "cli" / "tiny_system.py"
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_token_index": 98,
          "vision_config": {**SIZES, "image_size": 28, "patch_size": 14},
          "text_config": {"model_type": "llama", **SIZES, "vocab_size": 99}}  # fmt: skip
LORA = "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def adapter(folder, **more):
    said = {"peft_type": "LORA", "base_model_name_or_path": "lab/base", "r": 8, "target_modules": ["q_proj"], **more}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    tensors = {LORA.format("A"): torch.ones(8, 32), LORA.format("B"): torch.ones(32, 8)}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def whole(tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    spec = systems.get("llava-1.5").formats[0].model_spec(CONFIG)
    module = spec.build()
    randomise.fill(module)
    write_config(folder, config=CONFIG)
    write_weights(folder, module, spec.keys[0])
    return folder


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.h5", "is a file of TensorFlow and is not read; expected a folder or a file ending in .safetensors"),
        ("model.onnx", "is an ONNX graph"),
        ("flax_model.msgpack", "is a file of Flax"),
        ("weights.zip", "is an archive; unpack it"),
        ("model.gguf.part", "is an unfinished download; fetch the file again"),
        ("config.json", "is a small file of a checkpoint, not its weights; load the folder"),
        ("adapter_model.safetensors", "is of a PEFT adapter, not a model; load its folder"),
        ("model", "is no weights file; expected a folder or a file ending in"),
        ("model.gguf", "not a GGUF file"),
        ("model.ckpt", "is not a model: "),
    ],
)
def test_files_that_are_no_model(tmp_path, capsys, name, says):
    path = tmp_path / name
    path.write_bytes(b"nothing of the kind")
    for call in (pm.load, pm.look):
        with pytest.raises(PolymodalError) as error:
            call(path)
        assert says in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
    for command in (["show", str(path)], ["ask", "-m", str(path), "What?"]):
        assert run(command) == 2
        assert " ".join(says.split()) in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".ckpt", ".bin", ".pth", ".pt", ".PTH"])
def test_torch_files_of_any_usual_ending(tmp_path, ending):
    path = tmp_path / f"other{ending}"
    torch.save({"a.weight": torch.ones(2)}, path)
    with pytest.raises(PolymodalError, match=r"no known checkpoint format: it has no config\.json, and its tensors"):
        pm.load(path)
    torch.save({"unet.down.lora_A.weight": torch.ones(2, 2)}, path)
    with pytest.raises(ConfigError, match=r"holds an adapter and no model .*read as folders in PEFT's layout"):
        pm.load(path)


def test_an_adapter_alone_says_that_it_is_one(tmp_path):
    with pytest.raises(PolymodalError, match=r"is an adapter; its base model 'lab/base': .*adapters=\["):
        pm.load(adapter(tmp_path), offline=True)
    with pytest.raises(ConfigError, match=r"peft_type 'IA3' is not supported.*merge_and_unload\(\)"):
        pm.load(adapter(tmp_path, peft_type="IA3"))
    torch.save({}, adapter(tmp_path) / "non_lora_trainables.bin")
    with pytest.raises(ConfigError, match=r"non_lora_trainables\.bin, weights that LLaVA trained beside the adapter"):
        pm.load(tmp_path)


def test_an_adapter_beside_whole_weights_is_not_ignored(whole):
    plain = pm.load(whole).logits(input_ids=torch.tensor([[1, 2, 3]]))
    adapter(whole)
    with pytest.raises(ConfigError, match=r"holds whole weights and an adapter beside them; .*adapters=\[folder\]"):
        pm.load(whole)
    adapted = pm.load(whole, adapters=[whole]).logits(input_ids=torch.tensor([[1, 2, 3]]))
    assert (adapted - plain).abs().max() > 1e-3


def test_a_quantised_checkpoint_of_a_kind_that_is_not_read(whole):
    config = {**CONFIG, "quantization_config": {"quant_method": "hqq"}}
    (whole / "config.json").write_text(json.dumps(config))
    with pytest.raises(PolymodalError, match="is quantised with hqq, which is not read; load the unquantised"):
        pm.load(whole)


@pytest.mark.parametrize("given", [5, None, b"mini", "", "a\0b"])
def test_what_is_no_path_at_all(given):
    model = pm.load(TINY)
    for call in (pm.load, model.save, model.attach, model.save_adapter):
        with pytest.raises(ConfigError, match="expected a path, found") as error:
            call(given)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"adapters: expected"):
        pm.load(TINY, adapters=[given])


def test_the_working_directory_is_a_path_and_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", ".."):
        with pytest.raises(PolymodalError, match="holds no weights"):
            pm.load(name)


@pytest.mark.parametrize(
    ("move", "says"),
    [
        ({"device": "gpu"}, "unknown device 'gpu'; expected auto, cpu, cuda"),
        ({"device": "cuda:99"}, "there is no device 'cuda:99' here"),
        ({"dtype": torch.int8}, "unknown dtype 'int8'; expected auto, float32.*quantise='int8'"),
        ({"dtype": "half"}, "unknown dtype 'half'"),
    ],
)
def test_devices_and_dtypes_that_are_not_there(move, says):
    model = pm.load(TINY)
    for call in (model.to, lambda **options: pm.load(TINY, **options)):
        with pytest.raises(ConfigError, match=says):
            call(**move)
    assert model.to(dtype="bfloat16").module.backbone.norm.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["model.ckpt", "model.gguf", "model.pt", "model.safetensors"])
def test_weights_are_no_media(tmp_path, capsys, name):
    path = tmp_path / name
    path.write_bytes(b"weights")
    assert run(["ask", "-m", str(TINY), str(path), "What?"]) == 2
    assert "is a weights file, not media; as a model it is given by --model" in " ".join(
        capsys.readouterr().err.split()
    )
