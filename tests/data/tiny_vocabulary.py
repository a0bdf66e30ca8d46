"""A small byte-level vocabulary with ChatML specials, made in memory."""

from functools import lru_cache
from typing import Any

from tokenizers import pre_tokenizers

from polymodal.data.tokenizer import Tokenizer

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<reponame>", "<file_sep>", "<filename>")


def tiny_metadata() -> dict[str, Any]:
    """GGUF metadata of a made-up vocabulary: 6 control tokens, all 256 bytes and a few merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["t h", "h e", "th e", "i n", "e r", "a n", "Ġ the", "Ġ a", "u s", "us er", "i s", "Ġ is"]
    merges += ["a s", "as s", "is t", "an t", "ass ist", "assist ant"]
    made = [merge.replace(" ", "") for merge in merges]
    tokens = [*SPECIALS, *letters, *made]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }


@lru_cache
def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(tiny_metadata())
