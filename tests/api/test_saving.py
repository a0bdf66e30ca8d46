"""`Model.save`: what is saved loads again and is equal, or is refused before anything is written."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import polymodal as pm
from polymodal import systems
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.errors import ConfigError, WeightsError
from polymodal.nn.fuse import fuse_projections
from polymodal.nn.lora import apply_lora, merge_lora
from polymodal.weights import checkpoint_files, export

TINY = Path(__file__).parents[1] / "cli" / "tiny_system.py"
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny LLaVA as published, every weight random."""
    folder = tmp_path_factory.mktemp("published")
    size = byte_tokenizer(folder, ["<s>", "</s>", "<image>"], bos="<s>", eos="</s>", pad="</s>")
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_token_index": 2,
              "vision_config": {**SIZES, "image_size": 28, "patch_size": 14}, "torch_dtype": "float32",
              "text_config": {"model_type": "llama", "dtype": "float32", **SIZES, "vocab_size": size}}  # fmt: skip
    write_config(folder, config=config, generation_config={"eos_token_id": 1})
    spec = systems.get("llava-1.5").formats[0].model_spec(config)
    module = spec.build()
    randomise.fill(module)
    write_weights(folder, module, spec.keys[0])
    return folder


@pytest.fixture
def model(published):
    return pm.load(published)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "cache"))


def state(model):
    return {name: x.clone() for name, x in model.module.state_dict().items()}


def equal(model, other):
    mine, theirs = state(model), state(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(model, factor=1.5):
    with torch.no_grad():
        model.module.backbone.norm.weight.mul_(factor)
    return model


# What is saved


def test_a_tied_head_that_the_file_repeats_follows_what_was_trained(published, tmp_path):
    folder = Path(shutil.copytree(published, tmp_path / "tied"))
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    write_config(folder, config=config)
    tensors = load_file(folder / "model.safetensors")
    head, table = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    tensors[head] = tensors[table].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = pm.load(folder)
    with torch.no_grad():
        model.module.backbone.embed_tokens.weight.mul_(2)
    found = load_file(model.save(tmp_path / "saved") / "model.safetensors")
    assert torch.equal(found[head], found[table]) and torch.equal(found[table], 2 * tensors[table])


def test_a_smaller_dtype_is_named_in_the_config_and_loads_as_it_was(published, tmp_path):
    model = pm.load(published, dtype="bfloat16")
    saved = model.save(tmp_path / "saved")
    config = json.loads((saved / "config.json").read_text())
    assert (config["torch_dtype"], config["text_config"]["dtype"]) == ("bfloat16", "bfloat16")
    assert equal(pm.load(saved), model)
    half = pm.load(published, dtype="float16")
    assert equal(pm.load(half.save(tmp_path / "half"), dtype="float16"), half)
    back = pm.load(tmp_path / "half").module.backbone.norm.weight  # auto computes in float32 on a CPU
    assert torch.equal(back, half.module.backbone.norm.weight.float())


def test_a_quantised_checkpoint_is_saved_as_plain_weights(published, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = Path(shutil.copytree(published, tmp_path / "packed"))
    config = json.loads((folder / "config.json").read_text())
    write_config(folder, config={**config, "quantization_config": {"quant_method": "bitsandbytes"}})
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if "language_model" in name and name.endswith("q_proj.weight")]:
        tensors[name.replace("weight", "SCB")] = tensors[name].abs().amax(1)
        tensors[name] = (tensors[name] * 127 / tensors[name].abs().amax(1, keepdim=True)).round().to(torch.int8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = pm.load(folder, dtype="float32")
    saved = model.save(tmp_path / "saved")
    assert "quantization_config" not in json.loads((saved / "config.json").read_text())
    assert equal(pm.load(saved), model)
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(saved).eval()
    ids = torch.tensor([[5, 9, 12, 30]])
    with torch.no_grad():
        assert (theirs(input_ids=ids).logits - model.logits(input_ids=ids)).abs().max() <= 1e-5


def test_parameters_without_a_published_name_are_kept(tmp_path):
    config = {"model_type": "vit", "architectures": ["ViTModel"], **SIZES, "image_size": 28, "patch_size": 14}
    format = systems.get("vit").formats[1]
    spec = format.model_spec(config)
    module = spec.build()
    randomise.fill(module)
    folder = tmp_path / "vit"
    folder.mkdir()
    write_config(folder, config=config)
    write_weights(folder, module, spec.keys[0])
    tensors = {name: x for name, x in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(tensors, folder / "model.safetensors")
    model = pm.load(folder)
    saved = model.save(tmp_path / "saved")
    assert (saved / "polymodal.extra").is_file() and load_file(saved / "model.safetensors").keys() == tensors.keys()
    assert equal(pm.load(saved), model) and equal(pm.load(pm.load(saved).save(tmp_path / "again")), model)


def test_fused_projections_are_saved_under_their_published_names(model, published, tmp_path):
    before = state(model)
    assert fuse_projections(model.module.backbone) > 0
    back = pm.load(model.save(tmp_path / "saved"))
    assert all(torch.equal(before[name], x) for name, x in state(back).items())


def test_a_merged_lora_is_saved(model, tmp_path):
    apply_lora(model.module.backbone, ["q_proj"], rank=2, alpha=4)
    with pytest.raises(ConfigError, match=r"has a LoRA; merge_lora\(model\.module\), or save_adapter\(\)"):
        model.save(tmp_path / "saved")
    merge_lora(model.module)
    assert equal(pm.load(model.save(tmp_path / "saved")), model)


# Refused before anything is written


def test_a_changed_module_is_refused_by_the_name_that_differs(model, published, tmp_path):
    model.module.connectors["image"] = torch.nn.Linear(32, 32)
    with pytest.raises(ConfigError, match=r"'connectors\.image\.\S+' had shape .* and is gone.*torch\.save") as error:
        model.save(tmp_path / "saved")
    assert "\n" not in str(error.value) and not (tmp_path / "saved").exists()
    other = pm.load(published)
    other.module.more = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"'more\.weight' is new"):
        other.save(tmp_path / "saved")


def test_int8_weights_and_a_source_that_is_gone_are_refused(published, tmp_path):
    with pytest.raises(ConfigError, match="quantised weights cannot be saved; load it without quantise"):
        pm.load(published, quantise="int8").save(tmp_path / "saved")
    source = shutil.copytree(published, tmp_path / "source")
    model = pm.load(source)
    shutil.rmtree(source)
    with pytest.raises(WeightsError, match=r"source, from which it was loaded .* is not there any more; .*torch\.save"):
        model.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# A user's own system file


def test_a_users_own_system_loads_again(tmp_path, monkeypatch):
    code = Path(shutil.copy(TINY, tmp_path / "my_system.py"))
    model = pm.load(code)
    with torch.no_grad():
        for value in model.module.parameters():
            value.mul_(1.5)
    saved = model.save(tmp_path / "saved")
    for back in (pm.load(saved), pm.load(saved, system=str(code))):
        assert equal(back, model) and back.chat("Hello", max_tokens=4).text == model.chat("Hello", max_tokens=4).text
    assert pm.look(saved)[0].id == model.system.id
    code.unlink()  # the copy beside the weights is the same file
    assert equal(pm.load(saved), model)
    again = pm.load(saved).save(tmp_path / "again")
    assert equal(pm.load(again), model)


def test_code_in_a_folder_from_elsewhere_runs_only_when_it_is_named(tmp_path, monkeypatch):
    saved = pm.load(TINY).save(tmp_path / "saved")
    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "of somebody else"))
    with pytest.raises(ConfigError, match=r"only when you name it: pm\.load\('.*saved', system='.*tiny_system\.py'"):
        pm.load(saved)
    assert pm.load(saved, system=str(saved / "tiny_system.py")).can
    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "cache"))
    record = json.loads((saved / "polymodal.json").read_text())
    record["code"]["path"] = str(saved / "tiny_system.py")
    (saved / "polymodal.json").write_text(json.dumps(record))
    (saved / "tiny_system.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(ConfigError, match="only when you name it"):
        pm.load(saved)


# The old folder stays whole until the new one is complete


def test_the_same_folder_a_link_and_the_working_directory(model, tmp_path, monkeypatch):
    saved = model.save(tmp_path / "saved")
    (saved / "notes.md").write_text("mine")
    inode = saved.stat().st_ino
    link = tmp_path / "link"
    link.symlink_to(saved)
    monkeypatch.chdir(saved)
    for number, target in enumerate((saved, link, Path("."), Path("../saved"))):
        loaded = changed(pm.load(target), 1.1)
        assert loaded.save(target) == target
        assert equal(pm.load(saved), loaded), number
    assert saved.stat().st_ino == inode and link.is_symlink() and (saved / "notes.md").read_text() == "mine"
    assert not [path for path in saved.iterdir() if path.name.startswith(".")]
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "not yet")
    assert equal(pm.load(model.save(dangling)), model)


def test_files_that_the_new_model_does_not_have_go_with_the_old_one(model, tmp_path):
    saved = model.save(tmp_path / "saved")
    tiny = pm.load(TINY)
    tiny.save(saved)
    assert not (saved / "config.json").exists() and not (saved / "tokenizer.json").exists()
    assert equal(pm.load(saved), tiny)


def test_other_peoples_folders_and_files_are_left_alone(model, published, tmp_path):
    before = contents(published)
    with pytest.raises(ConfigError, match="exists and is not a saved model"):
        model.save(published)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; choose a folder"):
        model.save(tmp_path / "file")
    assert contents(published) == before


@pytest.mark.parametrize("at", ["first write", "moving in", "serialising"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_leaves_the_old_folder_whole(model, tmp_path, monkeypatch, at, code):
    saved = model.save(tmp_path / "saved")
    before, moves = contents(saved), []

    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    replace = os.replace

    def fail_late(source, target):
        moves.append(target)
        if len(moves) == 7:
            fail()
        replace(source, target)

    if at == "first write":
        monkeypatch.setattr(Path, "mkdir", fail)
    elif at == "serialising":
        monkeypatch.setattr(checkpoint_files, "save_safetensors", fail)
    else:
        monkeypatch.setattr(os, "replace", fail_late)
    expected = "the disk is full; free some space" if code == errno.ENOSPC else "Read-only file system"
    with pytest.raises(ConfigError, match=rf"cannot write .*saved: {expected}.*as it was") as error:
        changed(model).save(saved)
    monkeypatch.undo()
    assert "\n" not in str(error.value) and contents(saved) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_limit_on_the_size_of_files(model, tmp_path):
    """The real thing: the system refuses to write on in the middle of the weights."""
    saved = model.save(tmp_path / "saved")
    before = contents(saved)
    script = (
        "import resource, signal, sys, polymodal as pm\n"
        f"model = pm.load({str(model.path)!r})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        f"try: model.save({str(saved)!r})\n"
        "except pm_errors.PolymodalError as error: print(error)\n"
    ).replace("polymodal as pm", "polymodal as pm, polymodal.errors as pm_errors")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.startswith(f"cannot write {saved}: File too large"), (done.stdout, done.stderr)
    assert contents(saved) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_small_disk_that_is_mounted_there(model, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(map(len, contents(model.path).values()))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(1.6 * size)}", "tmpfs", disk]).returncode:
        pytest.skip("no mounts here")
    try:
        model.save(disk)
        before = contents(disk)
        with pytest.raises(ConfigError, match="the disk is full"):
            changed(model).save(disk)
        assert contents(disk) == before
        subprocess.run(["mount", "-o", f"remount,size={4 * size}", disk], check=True)
        model.save(disk)
        assert equal(pm.load(disk), model)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # what was loaded stays mapped


def test_weights_of_a_file_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.safetensors"
    export.save_safetensors({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    with pytest.raises(WeightsError, match="File exists"):
        export.save_safetensors({"a": torch.ones(3)}, path / "below")
    assert path.read_bytes() == before and list(tmp_path.glob(".*")) == []
