"""VisCPM's trees byte for byte and id for id, its vocabulary, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal.check.evidence.viscpm import MARKS, small
from polymodal.check.fixture import read
from polymodal.data.messages import Message
from polymodal.data.template import written
from polymodal.data.tokenizer_files import read_tokenizer
from polymodal.errors import ConfigError, PromptError, WeightsError
from polymodal.systems.viscpm import SYSTEM
from polymodal.systems.viscpm.checkpoint import infer, parse_config
from polymodal.systems.viscpm.processor import IMAGE_AFTER, IMAGE_BEFORE, TEMPLATE, one_question, wish
from polymodal.weights.export import export_tensors

SIGNS = "abcdefghijklmnopqrstuvwxyz:?."
WORDS = ("image context question input caption objects User AI what is it", " is", " it", " a", "cat", " cat",
         "dog an answer no tail hint deep er")  # fmt: skip
PICTURE = Image.fromarray((np.arange(60 * 80 * 3) % 251).astype(np.uint8).reshape(60, 80, 3))


def vocabulary(folder: Path) -> Path:
    """The vocabulary with which the official code made the fixtures, and three more signs."""
    words = [each for text in WORDS for each in ([text] if text[0] == " " else text.split())]
    lines = dict.fromkeys([*MARKS, "<option>", *SIGNS, *words, *"UAI"])
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "viscpm-chat"}', encoding="utf-8")
    return folder


def said(role: str, *parts: object) -> Message:
    return Message(role=role, parts=tuple(pm.text(each) if isinstance(each, str) else each for each in parts))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pm.Model:
    folder = vocabulary(tmp_path_factory.mktemp("viscpm"))
    config = {**small(len((folder / "vocab.txt").read_text().split("\n")) - 1), "query_num": 5}
    spec = parse_config(config)
    torch.save(export_tensors(spec.build(), spec.keys[0]), folder / "pytorch_model.v1.bin")
    (folder / "config.json").write_text(json.dumps(config))
    return pm.load(folder)


def test_the_tree_is_that_of_the_official_code() -> None:
    talk = (said("user", pm.image(PICTURE), "it"), said("assistant", "a cat"), said("user", "what?"))
    assert written(TEMPLATE.render(one_question(talk), ask=True)) == (
        "<s><root></s><image><s>context</s><s>User: it\nAI: a cat\n</s><s>question</s><s>what?</s><s><ans></s><s>"
    )
    assert written((*IMAGE_BEFORE, *IMAGE_AFTER)) == "<s>image</s><s></s>"
    done = (*talk, said("assistant", "yes"))
    assert written(TEMPLATE.render(one_question(done), ask=False)).endswith("<s><ans></s><s>yes</s>")
    assert written(TEMPLATE.render(wish("a cat"), ask=True)) == (
        "<s><root></s><s>caption</s><s>a cat</s><s>objects</s><s></s>"
    )


def test_ids_and_numbers_of_unknown_words_are_the_official_ones(model: pm.Model) -> None:
    _, stored = read("viscpm_chat")
    asked = "what\u2603 is\u00e9 it \u2603\u2603 a dog? an answer"
    rounds = [said("user", pm.image(PICTURE), "is it a \u00e9cat?"), said("assistant", "no."), said("user", asked)]
    batch = model.processor([[said("user", pm.image(PICTURE), "what is it?")], rounds], generate=True)
    size = model.processor.tokenizer.vocab_size
    assert torch.equal(batch["input_ids"] % size, stored["in.input_ids"])
    assert torch.equal(batch["input_ids"] // size, stored["in.input_id_subs"])
    assert torch.equal(batch["attention_mask"], stored["in.attention_mask"])
    bound = stored["in.image_bound"][:, 0]
    place = torch.arange(batch["input_ids"].shape[1])
    assert torch.equal(batch["image_mask"], (place >= bound[:, :1]) & (place < bound[:, 1:]))


def test_labels_are_the_answer_and_its_end(model: pm.Model) -> None:
    talk = [said("user", pm.image(PICTURE), "it\u2603"), said("assistant", "a \u00e9cat \u2603.")]
    batch = model.processor(talk)
    kept = batch["labels"][0] >= 0
    tokens = [model.processor.tokenizer.token(int(index)) for index in batch["labels"][0][kept]]
    # The snowman is word 0 of the tree, a token of the vocabulary; the other word is number 1 and has no logits.
    assert tokens == ["a", " ", "cat", " ", "<unk>", ".", "</s>"]
    assert torch.isfinite(model.module(**batch).loss)


def test_pictures_are_squashed_to_the_tower(model: pm.Model) -> None:
    found = model.processor([said("user", pm.image(PICTURE), "it")], generate=True)["pixel_values"]
    square = PICTURE.resize((56, 56), Image.Resampling.BICUBIC)
    expected = (torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255 - 0.5) / 0.5
    assert torch.allclose(found[0], expected, atol=1e-6)


def test_text_alone_is_a_tree_without_a_picture(model: pm.Model) -> None:
    batch = model.processor([said("user", "it")], generate=True)
    assert not batch["image_mask"].any()
    assert isinstance(model.chat("what is it?", max_tokens=3).text, str)


def test_refusals_name_what_was_found(model: pm.Model) -> None:
    for messages, why in (
        ([said("user", pm.image(PICTURE), pm.image(PICTURE), "it")], "takes 1 picture, .*found 2"),
        ([said("system", "a"), said("user", "it")], "expected user as message 1, found system"),
        ([said("user", "it"), said("user", "it")], "expected assistant as message 2, found user"),
        ([said("user", "it " * 4000)], r"\d+ tokens .* for a limit of 3512"),
        ([said("user", "it" * 600)], "1200 signs without a space or a sign that stands alone; at most 1000"),
    ):
        with pytest.raises(PromptError, match=why):
            model.processor(messages, generate=True)
    with pytest.raises(ConfigError, match=r"query_num: expected 1 to 14, the positions of text, found 15"):
        parse_config({**small(40), "query_num": 15})
    with pytest.raises(ConfigError, match="vocab_size 9; the tokens of a tree have ids up to 9"):
        parse_config({**small(40), "vocab_size": 9})


def test_a_file_by_itself_tells_its_sizes() -> None:
    config = SYSTEM.variants[0].config
    assert config is not None
    stored = dict(config)
    names = {f"llm.encoder.layers.{i}.ffn.ffn.w_in.w_0.weight": (10240, 4096) for i in range(48)}
    names |= {"llm.encoder.layers.0.self_att.self_attention.project_q.weight": (4096, 4096),
              "llm.input_embedding.weight": (86583, 4096), "llm.position_bias.relative_attention_bias": (512, 32),
              "query": (64, 1024), "vpm.beit3.vision_embed.proj.weight": (1024, 3, 16, 16),
              "vpm.beit3.encoder.embed_positions.A.weight": (199, 1024),
              "vpm.beit3.encoder.embed_positions.B.weight": (1024, 1024)}  # fmt: skip
    names |= {f"vpm.beit3.encoder.layers.{i}.ffn.A.fc1.weight": (4096, 1024) for i in range(24)}
    found = infer(names)
    assert found is not None
    vision = found.pop("vision")
    assert (found, stored.pop("vision")) == (stored, {})
    assert vision == {"img_size": 224, "patch_size": 16, "encoder_embed_dim": 1024, "encoder_attention_heads": 16,
                      "encoder_ffn_embed_dim": 4096, "encoder_layers": 24, "max_source_positions": 1024}  # fmt: skip
    assert infer({"llm.input_embedding.weight": (9, 9)}) is None


def test_a_published_file_and_vocabulary_need_no_config(tmp_path: Path) -> None:
    words = len(vocabulary(tmp_path).joinpath("vocab.txt").read_text().split("\n")) - 1
    (tmp_path / "vocab.txt").rename(tmp_path / "bee.txt")
    (tmp_path / "config.json").unlink()
    config = small(words)
    spec = parse_config({**config, "position_bias_num_segment_buckets": 32 * 3, "position_bias_num_buckets": 32 * 3,
                         "vision": {**config["vision"], "encoder_attention_heads": 1}})  # fmt: skip
    weights = export_tensors(spec.build(), spec.keys[0])
    torch.save(weights, tmp_path / "viscpm_chat_balance_checkpoint.pt")
    loaded = pm.load(tmp_path)
    assert (loaded.system.id, loaded.module.backbone.config.ways) == ("viscpm", 96)
    assert isinstance(loaded.chat(pm.image(PICTURE), "it", max_tokens=2).text, str)
    torch.save(weights, tmp_path / "viscpm_chat_zhplus_checkpoint.pt")
    with pytest.raises(WeightsError, match="holds 2 weights files and no index"):
        pm.load(tmp_path)
    torch.save({**weights, "query": weights["query"][:, :5]}, tmp_path / "viscpm_chat_zhplus_checkpoint.pt")
    with pytest.raises(WeightsError, match="queries"):
        pm.load(tmp_path / "viscpm_chat_zhplus_checkpoint.pt")


def test_text_is_cut_into_the_longest_pieces(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(vocabulary(tmp_path))
    for text, pieces in (
        ("what is it? it", ["what", " is", " it", "?", " it"]),
        ("cats  a", ["cat", "s", " ", " a"]),
        ("a\u2603\u2603\u00e9\nb</s>", ["a", "<unk>", "\n", "b", "<unk>", "s", "<unk>"]),
    ):
        assert [tokenizer.token(index) for index in tokenizer.encode(text)] == pieces
    assert tokenizer.decode(tokenizer.encode("what is it?\n a cat")) == "what is it?\n a cat"
    (tmp_path / "vocab.txt").write_text("<pad>\n<unk>\nab\na\n", encoding="utf-8")
    with pytest.raises(WeightsError, match="pieces of signs that are none themselves"):
        read_tokenizer(tmp_path)
