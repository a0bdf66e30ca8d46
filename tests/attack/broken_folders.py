"""Tiny folders with weights, of each shape of model, whose small files are there to be broken: published, saved, in
shards, and an adapter with its base."""

import json
import shutil
from pathlib import Path

from PIL import Image

import polymodal as pm
from polymodal import systems
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import clip, vit
from polymodal.nn.lora import apply_lora
from polymodal.weights.read import read
from tiny_folders import FOLDERS, tiny

CHAT = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
GENERATION = {"eos_token_id": [2], "pad_token_id": 0, "bos_token_id": 1, "max_new_tokens": 8, "do_sample": True,
              "temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1, "num_beams": 1}  # fmt: skip
PICTURE = Image.new("RGB", (24, 20), (200, 90, 10))


def write_classifiers(root: Path) -> list[Path]:
    """A CLIP with its tokenizer, and a classifier of three classes."""
    for name, module in (("clip", clip), ("vit", vit)):
        folder = root / name
        folder.mkdir()
        if name == "clip":
            marks = ["<|startoftext|>", "<|endoftext|>"]
            config = module.tiny(byte_tokenizer(folder, marks, bos=marks[0], eos=marks[1]), 1)
        else:
            config = module.tiny(["cat", "dog", "boat"])
        spec = systems.get(name).formats[0].model_spec(config)
        model = spec.build()
        randomise.fill(model)
        sides = {"size": {"shortest_edge": 32}, "crop_size": 32} if name == "clip" else {"size": 32, "resample": 3}
        write_config(folder, config=config, preprocessor_config=sides)
        write_weights(folder, model, spec.keys[0])
    return [root / "clip", root / "vit"]


def write_all(root: Path) -> list[Path]:
    """The folders, by what is in them."""
    for name in FOLDERS:
        (root / name).mkdir()
        tiny(name, root / name)
        write_config(root / name, generation_config=GENERATION, chat_template={"chat_template": CHAT})  # fmt: skip
    write_classifiers(root)
    shutil.copytree(root / "llava-1.5", root / "sharded")
    weights = root / "sharded" / "model.safetensors"
    names = dict.fromkeys(read(weights, "safetensors"), "one.safetensors")
    weights.rename(root / "sharded" / "one.safetensors")
    index = {"metadata": {"total_size": 5}, "weight_map": names}
    (root / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    model = pm.load(root / "llava-1.5")
    model.save(root / "saved")
    apply_lora(model.module, ("q_proj",), rank=2, alpha=4)
    model.save_adapter(root / "adapter")
    config = json.loads((root / "adapter" / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = str(root / "llava-1.5")
    (root / "adapter" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return sorted(root.iterdir())


def use(folder: Path) -> None:
    """What a person does with a folder: load it, and ask it for what it can do."""
    model = pm.load(folder)
    if "chat" in model.can:
        model.chat(PICTURE, "Hi", max_tokens=2)
    elif "classify" in model.can:
        model.classify(PICTURE, ["cat", "dog", "boat"])
    if "embed" in model.can:
        model.embed([PICTURE])
    if "generate" in model.can:
        model.generate(input_ids=[[20, 21]], max_new_tokens=2)
