"""A sentencepiece vocabulary in GGUF metadata gives the ids that its model file gives."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.data.gguf_tokenizer import gguf_tokenizer
from polymodal.data.sentencepiece import SentencePieceModel, read_sentencepiece
from polymodal.data.tokenizer_files import read_tokenizer
from polymodal.errors import WeightsError

STORED = Path(__file__).parents[1] / "fixtures" / "tokenizers"
TEXTS = ("", "Hello", " Hello  world ", "a\nb\tc", "naïve café 中文 😀", "</s><s>[INST] x", "tokens, tokens; tokens!")


def llama() -> SentencePieceModel:
    return read_sentencepiece((STORED / "llama.model").read_bytes(), where="llama.model")


def metadata(**changes):
    """What convert_hf_to_gguf.py writes for a sentencepiece model."""
    model = llama()
    ids = {role: model.pieces.index(name) for role, name in model.roles.items()}
    said = {
        "model": "llama", "tokens": list(model.pieces), "scores": list(model.scores), "token_type": list(model.kinds),
        "add_space_prefix": model.dummy_prefix, "unknown_token_id": model.unknown, "bos_token_id": ids.get("bos"),
        "eos_token_id": ids.get("eos"), "padding_token_id": ids.get("pad"),
        "remove_extra_whitespaces": model.collapse_spaces, **changes,
    }  # fmt: skip
    return {f"tokenizer.ggml.{name}": value for name, value in said.items() if value is not None}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    shutil.copy(STORED / "llama.model", folder / "tokenizer.model")
    # Without a class the model file alone counts.
    (folder / "tokenizer_config.json").write_text(json.dumps({"legacy": True}))
    return gguf_tokenizer(metadata()), read_tokenizer(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_the_model_file(both, text):
    ours, wanted = both
    assert ours.encode(text) == wanted.encode(text)
    assert ours.decode(ours.encode(text)) == wanted.decode(wanted.encode(text))
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (wanted.bos_id, wanted.eos_id, wanted.pad_id)
    assert ours.special_tokens == wanted.special_tokens and ours.vocab_size == wanted.vocab_size


@given(text=st.text(max_size=40).filter(lambda text: text.isprintable()))
def test_any_text(both, text):
    ours, wanted = both
    assert ours.encode(text) == wanted.encode(text)


def test_tokens_that_are_put_behind():
    tokenizer = gguf_tokenizer(metadata(), added=("<image>",))
    assert tokenizer.special("<image>") == len(llama().pieces) == tokenizer.vocab_size - 1
    assert tokenizer.special("<image>") not in tokenizer.encode("an <image> here")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "rwkv"}, "of kind 'rwkv'; expected 'gpt2' or 'llama'"),
        ({"scores": None}, "lacks tokens, scores or token types"),
        ({"token_type": [1]}, "in different numbers"),
        ({"tokens": ["a"] * len(llama().pieces)}, r"damaged .its piece 'a' occurs twice"),
        ({"scores": [float("nan")] * len(llama().pieces)}, "a score that is not a number"),
        ({"bos_token_id": 10**6}, "damaged"),
        ({"token_type": [9] * len(llama().pieces)}, "a piece of kind 9"),
    ],
)
def test_damage_is_one_line(changes, words):
    with pytest.raises(WeightsError, match=words) as caught:
        gguf_tokenizer(metadata(**changes))
    assert "\n" not in str(caught.value)
