"""A small byte-level vocabulary with ChatML specials, so that random models can write text."""

from functools import lru_cache

from tokenizers import pre_tokenizers

from polymodal.data.tokenizer import Tokenizer

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<reponame>", "<file_sep>")


@lru_cache
def letters_tokenizer() -> Tokenizer:
    """5 control tokens, 256 bytes, a few merges; <|im_end|> ends an answer."""
    merges = ["t h", "h e", "th e", "i n", "Ġ a", "u s", "e r", "us er", "Ġ the"]
    tokens = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in merges)]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": merges,
            "tokenizer.ggml.token_type": [3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)),
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.padding_token_id": 0,
        }
    )
