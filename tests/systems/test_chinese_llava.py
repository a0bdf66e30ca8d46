"""Chinese-LLaVA's prompts, piece by piece as its published code calls the tokenizer; which folders are its own."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image as Pillow

import polymodal as pm
from polymodal import systems
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import llava
from polymodal.check.evidence.chinese_llava import NAMED, SPECIALS
from polymodal.errors import WeightsError
from polymodal.systems.chinese_llava import SYSTEM, WORDS

MODEL = Path(__file__).parents[1] / "fixtures" / "tokenizers" / "llama.model"
SETTINGS = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False,
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}  # fmt: skip
PICTURE = pm.image(Pillow.new("RGB", (61, 30), (9, 200, 30)))
TALK = [
    {"role": "user", "content": [PICTURE, "What is it?"]},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Why?"},
]
SHOWN = f"<im_start>{'<im_patch>' * 16}<im_end>"


def written(folder: Path, vocabulary: int, **more) -> pm.Model:
    config = {**llava.small(vocabulary, folder / "clip", **NAMED), **more}
    write_config(folder, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    write_weights(folder, spec.build(), spec.keys[0])
    return pm.load(folder)


def published_tokenizer(folder: Path):
    """The library's slow tokenizer of the vocabulary with the words that the official code adds, ids as they come."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<im_patch>", "<im_start>", "<im_end>"], special_tokens=True)
    return tokenizer


def test_chinese_llama_2_is_prompted_in_its_pieces(tmp_path: Path) -> None:
    shutil.copy(MODEL, tmp_path / "tokenizer.model")
    write_config(tmp_path, tokenizer_config=SETTINGS)
    model, theirs = written(tmp_path, 603), published_tokenizer(tmp_path)
    first = f"[INST] <<SYS>>\n{WORDS}\n<</SYS>>\n\nWhat is it?\n{SHOWN} [/INST] "
    wanted = [*theirs.encode(first), *theirs.encode("A cat. ", add_special_tokens=False), theirs.eos_token_id,
              *theirs.encode("[INST] Why? [/INST] ")]  # fmt: skip
    batch = model.processor(TALK, generate=True)
    assert batch["input_ids"][0].tolist() == wanted
    answer = batch["labels"][0]
    assert theirs.decode(answer[answer >= 0]) == "A cat. </s>"


def test_baichuan_is_prompted_in_its_pieces(tmp_path: Path) -> None:
    shutil.copy(MODEL, tmp_path / "tokenizer.model")
    write_config(tmp_path, tokenizer_config={**SETTINGS, "add_bos_token": False})
    theirs = published_tokenizer(tmp_path)
    config = llava.small(64003, tmp_path / "clip", **llava.LLAVA)  # recognised by its vocabulary
    files = pm.checkpoints.record.CheckpointFiles(tmp_path)
    processor = SYSTEM.formats[0].model_spec(config).assemble(None, files).processor
    pieces = (WORDS, "USER:", f"What is it?\n{SHOWN}", "ASSISTANT:", "A cat.</s>", "USER:", "Why?", "ASSISTANT:")
    wanted = [id for piece in pieces for id in theirs.encode(piece, add_special_tokens=False)]
    assert processor(TALK, generate=True)["input_ids"][0].tolist() == wanted


def test_a_system_message_of_the_caller_replaces_the_published_one(tmp_path: Path) -> None:
    size = byte_tokenizer(tmp_path, SPECIALS, bos="<s>", eos="</s>", pad="<unk>")
    processor = written(tmp_path, size).processor
    ids = processor([{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}], generate=True)["input_ids"]
    text = processor.tokenizer.decode(ids[0].tolist(), skip_special=False)
    assert text == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] "


def test_pictures_are_cropped_as_published(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    size = byte_tokenizer(tmp_path, SPECIALS, bos="<s>", eos="</s>", pad="<unk>")
    theirs = transformers.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    found = written(tmp_path, size).processor([TALK[0]])["pixel_values"]
    assert (found - theirs(PICTURE.picture, return_tensors="pt")["pixel_values"]).abs().max() < 1e-5


def test_which_folders_are_its_own(tmp_path: Path) -> None:
    size = byte_tokenizer(tmp_path, SPECIALS, bos="<s>", eos="</s>", pad="<unk>")
    assert written(tmp_path, size).system.id == "chinese-llava"
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    write_config(tmp_path, config={**config, "_name_or_path": "somewhere"})
    assert pm.load(tmp_path).system.id == "llava"
    assert pm.load(tmp_path, system="chinese-llava").system.id == "chinese-llava"
    matches = SYSTEM.formats[0].matches
    official = {"architectures": ["LlavaLlamaForCausalLM"], "mm_projector_type": "mlp2x_gelu", "vocab_size": 64000}
    yi = systems.get("llava-1.6").variants[3].config | official
    assert matches(yi) == 0 and matches({**config, "vocab_size": 64003, "_name_or_path": ""}) == 3


def test_a_checkpoint_without_its_tower_says_so(tmp_path: Path) -> None:
    size = byte_tokenizer(tmp_path, SPECIALS, bos="<s>", eos="</s>", pad="<unk>")
    written(tmp_path, size)
    weights = tmp_path / "model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: x for name, x in load_file(weights).items() if "vision_tower" not in name}, weights)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    write_config(tmp_path, config={**config, "mm_vision_tower": "openai/clip-vit-large-patch14"})
    with pytest.raises(WeightsError, match="leaves out its vision tower 'openai/clip-vit-large-patch14'; fetch that"):
        pm.load(tmp_path)
