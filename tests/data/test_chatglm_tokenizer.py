"""ChatGLM's ice_text.model: ids as its published class gives them, whose white space is pieces of its own."""

import json

import pytest
import sentencepiece

from polymodal.data.tokenizer_files import read_tokenizer
from polymodal.errors import ConfigError

SPECIALS = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]
WHITE = ["<n>", "<|tab|>", *(f"<|blank_{count}|>" for count in range(2, 81))]
TEXTS = (
    "Q:What is it?\nA:A cat.\nQ:Why?\nA:",
    "\u95ee\uff1a\u8fd9\u662f\u4ec0\u4e48\uff1f\n\u7b54\uff1a",
    "def f():\n\treturn  1   +    2",
    "  two in front, one behind ",
    " " * 83 + "x",
    "<img>",
    "</img>Q:Who?\nA:",
    "",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A vocabulary made as the published one: Unigram with bytes, its marks never merged."""
    folder = tmp_path_factory.mktemp("chatglm")
    lines = [
        *TEXTS[:3],
        "The cat sits on the mat and looks at the dog.",
        "\u732b\u5750\u5728\u57ab\u5b50\u4e0a\u3002",
    ] * 20
    (folder / "corpus.txt").write_text("\n".join(line.replace("\n", " ") for line in lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "ice_text"), model_type="unigram", vocab_size=460,
        byte_fallback=True, user_defined_symbols=[*WHITE, *SPECIALS], pad_id=3, hard_vocab_limit=False,
        remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    settings = {"tokenizer_class": "ChatGLMTokenizer", "num_image_tokens": 0, "bos_token": "<sop>",
                "eos_token": "<eop>", "mask_token": "[MASK]", "pad_token": "<pad>", "unk_token": "<unk>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def published(model, text):
    """What SPTokenizer.encode does."""
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    for count in range(80, 1, -1):
        text = text.replace(" " * count, f"<|blank_{count}|>")
    return model.encode(text)


@pytest.mark.parametrize("text", TEXTS)
def test_ids(folder, text):
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "ice_text.model"))
    ours = read_tokenizer(folder, control=("[gMASK]", "<sop>", "<eop>"))
    ids = ours.encode(text)
    assert ids == published(model, text)
    said = model.decode(ids).replace("<n>", "\n").replace("<|tab|>", "\t")
    for count in range(2, 81):
        said = said.replace(f"<|blank_{count}|>", " " * count)
    assert ours.decode(ids) == said


def test_special_tokens(folder):
    ours = read_tokenizer(folder, control=("[gMASK]", "<sop>", "<eop>"))
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "ice_text.model"))
    assert [ours.special(name) for name in ("[gMASK]", "<sop>", "<eop>")] == [
        model.piece_to_id(name) for name in ("[gMASK]", "<sop>", "<eop>")
    ]
    assert ours.special("<sop>") not in ours.encode("<sop>")


def test_the_first_vocabulary_is_refused(folder, tmp_path):
    (tmp_path / "ice_text.model").write_bytes((folder / "ice_text.model").read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"num_image_tokens": 20000}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="num_image_tokens 20000 is not supported"):
        read_tokenizer(tmp_path)
