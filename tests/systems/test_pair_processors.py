"""`model.processor` of models that read pictures with one text: what the published one gives, and they take."""

import pickle
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal.check import randomise
from polymodal.errors import ConfigError, PromptError
from tokenizer_samples import word_pieces

transformers = pytest.importorskip("transformers")
SIZES = {"hidden_size": 24, "intermediate_size": 30, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES = [
    Image.fromarray(numpy.random.default_rng(seed).integers(0, 255, (30 + 9 * seed, 41, 3), dtype=numpy.uint8))
    for seed in range(2)
]
TEXTS = ["a cat", "two dogs on the grass, and a bird"]


def words(folder: Path):
    """BERT's tokenizer of few words, written to the folder; returns the library's."""
    (folder / "vocab.txt").write_text(word_pieces())
    made = transformers.BertTokenizer(str(folder / "vocab.txt"))
    made.save_pretrained(folder)
    return made


def messages(rows: int = 2, text: bool = True, picture: bool = True) -> list:
    content = [[{"type": "image", "image": PICTURES[i]}] * picture + [TEXTS[i]] * text for i in range(rows)]
    return [[{"role": "user", "content": each}] for each in content]


def same(ours, theirs) -> None:
    """Equal names and tensors; pictures to the rounding of a resize."""
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        atol = 1e-5 if value.is_floating_point() else 0
        torch.testing.assert_close(value, torch.as_tensor(theirs[name]), atol=atol, rtol=0)


def check(model, processor, **more) -> dict[str, torch.Tensor]:
    """Every way to call it gives what the library's gives; returns the batch."""
    want = processor(images=PICTURES, text=TEXTS, padding=True, return_tensors="pt", **more)
    batch = model.processor(messages())
    same(batch, want)
    same(model.processor(images=PICTURES, text=TEXTS), want)
    same(pickle.loads(pickle.dumps(model.processor))(messages()), want)
    same(model.processor(messages(), generate=True), want)
    one = processor(images=PICTURES[:1], text=TEXTS[:1], padding=True, return_tensors="pt", **more)
    same(model.processor(messages(1)[0]), one)
    same(model.processor(images=PICTURES[0], text=TEXTS[0]), one)
    pixels = {name: value for name, value in want.items() if name.startswith("pixel")}
    same(model.processor(messages(text=False)), pixels)
    same(model.processor(text=TEXTS), {name: value for name, value in want.items() if name not in pixels})
    with pytest.raises(PromptError, match="expected a picture or a text, found neither"):
        model.processor(images=[])
    with pytest.raises(PromptError, match="row 1: expected 1 picture"):
        model.processor([messages(1)[0], messages(1, text=False)[0]])
    with pytest.raises(PromptError, match="this model takes pictures and text; found audio"):
        model.processor(pm.audio((numpy.zeros(800, dtype="float32"), 8000)))
    with pytest.raises(ConfigError, match="give messages, or images and text"):
        model.processor(messages(), text="a")
    return batch


@pytest.mark.parametrize(
    "name", ["BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"]
)
def test_blip(tmp_path, name):
    tokenizer = words(tmp_path)
    text = {**SIZES, "vocab_size": len(tokenizer), "encoder_hidden_size": 24, "max_position_embeddings": 48,
            "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}  # fmt: skip
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    config = transformers.BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=16)
    theirs = getattr(transformers, name)(config).eval()
    randomise.fill(theirs)
    theirs.save_pretrained(tmp_path)
    pictures = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.BlipProcessor(pictures, tokenizer)
    processor.save_pretrained(tmp_path)
    model = pm.load(tmp_path)
    batch = check(model, processor)
    if "generate" in model.can:
        captions = model.generate(**batch, max_new_tokens=6)
        assert torch.equal(captions, theirs.generate(**batch, max_new_tokens=6, do_sample=False))
        if name == "BlipForConditionalGeneration":
            assert model.generate(**model.processor(messages(1, text=False)[0]), max_new_tokens=3).shape[0] == 1
    else:
        with torch.no_grad():
            want = theirs(**batch).itm_score
        torch.testing.assert_close(model.logits(**batch), want, atol=1e-4, rtol=1e-4)


def test_vilt(tmp_path):
    tokenizer = words(tmp_path)
    config = transformers.ViltConfig(**SIZES, vocab_size=len(tokenizer), image_size=32, patch_size=8)
    theirs = transformers.ViltForQuestionAnswering(config).eval()
    randomise.fill(theirs)
    theirs.save_pretrained(tmp_path)
    pictures = transformers.ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8)
    processor = transformers.ViltProcessor(pictures, tokenizer)
    processor.save_pretrained(tmp_path)
    model = pm.load(tmp_path)
    batch = check(model, processor)
    with torch.no_grad():
        want = theirs(**batch).logits
    torch.testing.assert_close(model.logits(**batch), want, atol=1e-4, rtol=1e-4)


def test_flava(tmp_path):
    tokenizer = words(tmp_path)
    config = transformers.FlavaConfig(
        image_config={**SIZES, "image_size": 32, "patch_size": 8}, text_config={**SIZES, "vocab_size": len(tokenizer)},
        multimodal_config=SIZES, hidden_size=24, projection_dim=16,
    )  # fmt: skip
    transformers.FlavaModel(config).save_pretrained(tmp_path)
    pictures = transformers.FlavaImageProcessorPil(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}
    )
    processor = transformers.FlavaProcessor(pictures, tokenizer)
    processor.save_pretrained(tmp_path)
    model = pm.load(tmp_path)
    batch = check(model, processor)
    assert set(model.features(**batch)) >= {"image", "text"}


def clip_words(folder: Path):
    """CLIP's tokenizer of single letters."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    made = transformers.CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[])
    made.save_pretrained(folder)
    return made


@pytest.mark.parametrize("name", ["CLIPModel", "CLIPVisionModel", "CLIPTextModel", "CLIPForImageClassification",
                                  "CLIPVisionModelWithProjection", "CLIPTextModelWithProjection"])  # fmt: skip
def test_clip_has_one_whenever_its_files_are_there(tmp_path, name):
    tokenizer = clip_words(tmp_path)
    text = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 48, "eos_token_id": len(tokenizer) - 1}
    vision = {**SIZES, "image_size": 28, "patch_size": 7}
    config = {"CLIPText": transformers.CLIPTextConfig(**text), "CLIPVisi": transformers.CLIPVisionConfig(**vision)}
    whole = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    getattr(transformers, name)(config.get(name[:8], whole)).save_pretrained(tmp_path)
    pictures = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28)
    processor = transformers.CLIPProcessor(pictures, tokenizer)
    processor.save_pretrained(tmp_path)
    model = pm.load(tmp_path)
    if name == "CLIPModel":
        batch = check(model, processor)
        assert model.logits(**batch).shape == (2, 2)
    elif "Text" in name:
        batch = model.processor(text=TEXTS)
        same(batch, tokenizer(TEXTS, padding=True, return_tensors="pt"))
        assert model.features(**batch)["text"].shape[0] == 2
        with pytest.raises(PromptError, match="this model takes text; found image"):
            model.processor(images=PICTURES)
    else:
        batch = model.processor(images=PICTURES)
        same(batch, pictures(PICTURES, return_tensors="pt"))
        assert model.features(**batch)["image"].shape[0] == 2
        with pytest.raises(PromptError, match="this model takes pictures; found text"):
            model.processor("a cat")


def test_encoder_decoders_give_what_generate_takes(tmp_path):
    from polymodal.check.demo import byte_tokenizer

    size = byte_tokenizer(tmp_path, ["<pad>", "</s>", "<image>"], eos="</s>", pad="<pad>")
    text = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 4,
            "vocab_size": size, "decoder_start_token_id": 0}  # fmt: skip
    config = transformers.Blip2Config(
        vision_config={**SIZES, "image_size": 16, "patch_size": 8}, text_config=text, num_query_tokens=2,
        qformer_config={**SIZES, "encoder_hidden_size": 24}, image_token_index=2,
    )  # fmt: skip
    theirs = transformers.Blip2ForConditionalGeneration(config).eval()
    randomise.fill(theirs)
    theirs.save_pretrained(tmp_path)
    transformers.BlipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    model = pm.load(tmp_path, system="blip-2")
    batch = model.processor(messages(1)[0], generate=True)
    known = ("pixel_values", "input_ids", "attention_mask")
    want = theirs.generate(**{name: batch[name] for name in known if batch.get(name) is not None}, max_new_tokens=5)
    assert torch.equal(model.generate(**batch, max_new_tokens=5), want)


@pytest.mark.parametrize("kind", ["answer", "retrieval", "pair"])
def test_albef_from_a_folder_with_its_vocabulary(tmp_path, kind):
    from polymodal.systems.albef.checkpoint import parse_config

    tokenizer = words(tmp_path)
    text = {**SIZES, "num_hidden_layers": 2, "vocab_size": len(tokenizer), "fusion_layer": 1, "type_vocab_size": 2,
            "max_position_embeddings": 48, "decoder_layers": 1}  # fmt: skip
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    spec = parse_config({"kind": kind, "joint_width": 16, "text_config": text, "vision_config": vision})
    from polymodal.checkpoints.record import CheckpointFiles

    parts = spec.assemble(spec.build().eval(), CheckpointFiles(tmp_path))
    content = [*map(pm.image, PICTURES[: 2 if kind == "pair" else 1]), TEXTS[0]]
    batch = parts.processor([{"role": "user", "content": content}])
    assert batch["pixel_values"].shape == ((1, 2, 3, 32, 32) if kind == "pair" else (1, 3, 32, 32))
    assert batch["input_ids"].tolist() == tokenizer(TEXTS[:1])["input_ids"]
    with torch.no_grad():
        if kind == "answer":
            parts.model.features(**batch)
        else:
            assert parts.model(**batch).logits.shape == (1, 2)
    assert (parts.score is not None) == (kind == "retrieval")
