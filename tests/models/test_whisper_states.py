"""Whisper's decoder states against transformers, the names of its files, and what is refused."""

import pytest
import torch

from polymodal.check import library, randomise
from polymodal.errors import ConfigError, MediaError
from polymodal.models.whisper_states import HF_KEYS, parse_config
from polymodal.weights.load import load_into

CONFIG = {"d_model": 24, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_layers": 2,
          "decoder_attention_heads": 3, "decoder_ffn_dim": 30, "num_mel_bins": 10, "max_source_positions": 20,
          "max_target_positions": 9, "vocab_size": 40, "decoder_start_token_id": 5, "pad_token_id": 0}  # fmt: skip


def test_equals_transformers() -> None:
    pytest.importorskip("transformers")
    with library.quiet() as transformers:
        oracle = library.built(transformers, "WhisperModel", transformers.WhisperConfig(**CONFIG))
    model = parse_config(CONFIG, 7).build().eval()
    load_into(model, oracle.state_dict(), HF_KEYS)
    heard = randomise.values("heard", (3, 10, 40))
    with torch.no_grad():
        wanted = oracle(heard, decoder_input_ids=torch.full((3, 7), 5)).last_hidden_state
        torch.testing.assert_close(model(heard), wanted, atol=1e-5, rtol=0)
        with pytest.raises(MediaError, match=r"expected log-mel \[N, 10, 40\], found \[3, 10, 38\]"):
            model(heard[..., :38])


@pytest.mark.parametrize(
    ("changes", "queries", "words"),
    [
        ({}, 10, r"queries must be in 1\.\.9, its positions; found 10"),
        ({}, 0, "found 0"),
        ({"decoder_start_token_id": 40}, 4, "start must be one of 40 ids, found 40"),
        ({"activation_function": "relu"}, 4, "activation_function 'relu'"),
        ({"scale_embedding": True}, 4, "scale_embedding True is not supported"),
    ],
)
def test_what_is_refused(changes: dict, queries: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_config({**CONFIG, **changes}, queries)
