"""`pm.load` of checkpoints without a tokenizer.json: they chat, classify and are saved with the files they had."""

import json
from pathlib import Path
from typing import Any

import pytest

import polymodal as pm
from polymodal import systems
from polymodal.check import randomise
from polymodal.check.demo import write_config, write_weights
from polymodal.errors import ConfigError, WeightsError
from polymodal.weights import hub
from tokenizer_samples import bpe_files, model_file, rank_file, word_pieces, write

CAT = pm.image(Path(__file__).parents[2] / "examples" / "cat.jpg")
SIDES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PIECES = 600  # of the stored sentencepiece model


def checkpoint(folder: Path, system: str, config: dict[str, Any], files: dict[str, Any], **more: Any) -> Path:
    """A tiny published folder with random weights and the given files beside them."""
    write(folder, files)
    sides = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    write_config(folder, config=config, preprocessor_config=sides, **more)
    format = next(each for each in systems.get(system).formats if each.matches(config))
    model_spec = format.model_spec(config)
    module = model_spec.build()
    randomise.fill(module)
    write_weights(folder, module, model_spec.keys[0])
    return folder


def llava(folder: Path, files: dict[str, Any], words: int = PIECES + 1) -> Path:
    """A tiny LLaVA as transformers names it; <image> is the last word."""
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"],
              "image_token_index": words - 1, "vision_config": {**SIDES, "image_size": 28, "patch_size": 14},
              "text_config": {**SIDES, "model_type": "llama", "vocab_size": words}}  # fmt: skip
    return checkpoint(folder, "llava-1.5", config, files, generation_config={"eos_token_id": 2})


SETTINGS = {"tokenizer_class": "LlamaTokenizer", "pad_token": "<unk>"}
BESIDE = {"tokenizer_config.json": SETTINGS, "added_tokens.json": {"<image>": PIECES},
          "special_tokens_map.json": {"additional_special_tokens": ["<image>"]}}  # fmt: skip


def test_a_folder_with_a_sentencepiece_model_chats(tmp_path: Path) -> None:
    folder = llava(tmp_path / "llava", {"tokenizer.model": model_file("llama"), **BESIDE})
    model = pm.load(folder)
    assert model.can == ("chat", "logits", "features", "generate")
    reply = model.chat("What is in <image> this?", CAT, max_tokens=6)
    assert reply.tokens["image"] == 4 and reply.tokens["generated"] <= 6
    assert "".join(model.stream("Why?", max_tokens=6)) == model.chat("Why?", max_tokens=6).text
    saved = pm.load(model.save(tmp_path / "saved"))
    assert saved.chat("Why?", CAT, max_tokens=6).text == model.chat("Why?", CAT, max_tokens=6).text


def test_words_and_merges_answer_too(tmp_path: Path) -> None:
    words = bpe_files("<s>", "</s>", "<image>")
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "</s>",
                "additional_special_tokens": ["<image>"]}  # fmt: skip
    size = len(json.loads(words["vocab.json"]))
    folder = llava(tmp_path / "llava", {**words, "tokenizer_config.json": settings}, words=size)
    assert isinstance(pm.load(folder).chat("What?", CAT, max_tokens=4).text, str)


@pytest.mark.parametrize(("system", "marked"), [("llava", True), ("llava-1.5", False)])
def test_official_llava_folders_have_no_word_for_a_picture(system: str, marked: bool, tmp_path: Path) -> None:
    """LLaVA's own checkpoints: LLaMA's sentencepiece model, and words that the code appends when it runs."""
    config = {**SIDES, "model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"], "mm_hidden_size": 32,
              "vocab_size": PIECES + 3 * marked, "mm_vision_tower": str(tmp_path / "clip"),
              "mm_vision_select_layer": -2, "mm_use_im_start_end": marked, "image_aspect_ratio": "pad",
              "mm_projector_type": "linear" if marked else "mlp2x_gelu"}  # fmt: skip
    vision = {**SIDES, "model_type": "clip_vision_model", "image_size": 28, "patch_size": 14}
    write(tmp_path / "clip", {"config.json": vision})
    files = {"tokenizer.model": model_file("llama"), "tokenizer_config.json": {**SETTINGS, "legacy": False}}
    model = pm.load(checkpoint(tmp_path / "official", system, config, files))
    special = model.processor.tokenizer.special_tokens
    assert [special.get(name) for name in ("<im_patch>", "<im_start>", "<im_end>")] == (
        [PIECES, PIECES + 1, PIECES + 2] if marked else [None] * 3
    )
    assert model.chat("What is it?", CAT, max_tokens=4).tokens["image"] == 4


def test_clip_classifies_with_words_and_merges(tmp_path: Path) -> None:
    words = bpe_files("<|startoftext|>", "<|endoftext|>", suffix="</w>")
    size = len(json.loads(words["vocab.json"]))
    config = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 16,
              "text_config": {**SIDES, "vocab_size": size, "eos_token_id": size - 1},
              "vision_config": {**SIDES, "image_size": 28, "patch_size": 7}}  # fmt: skip
    model = pm.load(checkpoint(tmp_path / "clip", "clip", config, words))
    labels = model.classify(CAT, ["a cat", "a dog"])
    assert sum(label.probability for label in labels) == pytest.approx(1)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "no tokenizer files, any of tokenizer.json, tokenizer.model, spiece.model.* would do"),
    "another kind": ({"vocab.txt": word_pieces(), "tokenizer_config.json": {"tokenizer_class": "FooTokenizer"}},
                     r"vocab.txt \(WordPiece\) with tokenizer_class 'FooTokenizer', which is not supported"),
    "no class": ({"qwen.tiktoken": rank_file()}, r"qwen.tiktoken \(tiktoken\) but no tokenizer_class; expected one"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_chat_still_loads_and_says_why(case: str, tmp_path: Path) -> None:
    files, words = REFUSED[case]
    model = pm.load(llava(tmp_path / "llava", files))
    assert model.can == ("logits", "features", "generate")
    with pytest.raises(
        ConfigError, match=f"cannot chat; it takes text, image and offers logits.*; its folder has {words}"
    ):
        model.chat("Hello")


def test_a_damaged_vocabulary_is_named_when_it_is_loaded(tmp_path: Path) -> None:
    folder = llava(tmp_path / "llava", {"tokenizer.model": b"any", **BESIDE})
    with pytest.raises(WeightsError, match=r"tokenizer\.model is not a sentencepiece model"):
        pm.load(folder)


def test_vocabularies_are_fetched_from_the_hub() -> None:
    for name in ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt", "qwen.tiktoken"):
        assert name.endswith(hub.FETCHED)
