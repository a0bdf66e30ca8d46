"""Where parts meet: a folder that is checked, a chat that shows names of files, errors of templates, speech of NaN."""

import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from polymodal.check.folder import check_folder
from polymodal.cli import conversation as chat
from polymodal.connectors.ctc import CTCConnectorConfig
from polymodal.data.chat_template import ChatTemplate, TemplateSource
from polymodal.data.media import Audio
from polymodal.data.mel import MelConfig
from polymodal.data.messages import user
from polymodal.encoders.whisper import WhisperEncoderConfig
from polymodal.errors import ConfigError, NotFinite, PromptError
from polymodal.generators.conv_stack import GroupNorm
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.pipelines.speech_as_features import SpeechAsFeatures
from tiny_folders import tiny
from tiny_models import WIDTH, scrambled, tiny_decoder
from tiny_text import letters_tokenizer


@pytest.mark.parametrize(("field", "value"), [
    ("num_attention_heads", {"a": 4}), ("hidden_size", "abc"), ("num_hidden_layers", [2]), ("hidden_act", 5),
    ("num_hidden_layers", 10**9),
])  # fmt: skip
def test_a_folder_that_is_checked_has_its_config_to_blame(field, value, tmp_path):
    tiny("cogvlm", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {field: value}), encoding="utf-8")
    found = check_folder(tmp_path)
    for part in ("names", "load"):
        assert found[part]["ok"] is False
        assert "config.json" in found[part]["why"] and not re.match(r"\S+\.py, line", found[part]["why"]), found[part]


def test_a_chat_shows_names_in_one_line(tmp_path, capsys):
    path = tmp_path / "a\npolymodal: your key is needed\x1b[31m.txt"
    path.write_text("hello", encoding="utf-8")
    conversation = chat.Conversation(SimpleNamespace(require_input=lambda item: None), {}, False, None)  # type: ignore[arg-type]
    conversation.add_files(str(path))
    conversation.remember({"role": "user", "content": ["?"]}, conversation.waiting, "yes")
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "a\\npolymodal: your key" in shown
    assert "\npolymodal: your" not in conversation.as_words()


@pytest.mark.parametrize("source", [
    "{{ [1] | map(range) | list }}", "{{ [1] | map([1] | map('upper')) | list }}", "{{ 1 | default(range) }}",
    "{{ [range] | join }}", "{{ x[cycler(1)] }}{{ [1] | select(range) | list }}", "{{ raise_exception(range) }}",
])  # fmt: skip
def test_no_message_of_a_template_holds_an_address(source):
    template = ChatTemplate(
        source=TemplateSource(text=source, file="chat_template.jinja"), tokenizer=letters_tokenizer()
    )
    try:
        text = "".join(str(segment) for segment in template.render([user("Hi")], ask=True))
    except PromptError as refusal:
        text = str(refusal)
    assert not re.search("0x[0-9a-f]{6}", text), text


def test_speech_of_nan_is_named():
    tokenizer = letters_tokenizer()
    encoder = scrambled(WhisperEncoderConfig(width=16, depth=1, heads=2, frames=200).build(), 1)
    spoken: Any = scrambled(CTCConnectorConfig(vocab_size=40, width=16, kernel=3, key_width=8).build(16, WIDTH), 2)
    model = MultimodalLM({"audio": encoder}, {"audio": spoken}, tiny_decoder(vocabulary=300), {"audio": 3}).eval()
    listening = SpeechAsFeatures(model, tokenizer, MelConfig(seconds=2))
    recording = Audio((np.random.default_rng(0).standard_normal(16_000).astype(np.float32), 16_000))
    assert listening.count(listening.values(recording)) > 0
    with torch.no_grad():
        spoken.classes.weight[0, 0] = float("nan")
    for use in (listening.text, lambda each: listening.count(listening.values(each))):
        with pytest.raises(NotFinite, match="scores of what was said are NaN"):
            use(recording)


@pytest.mark.parametrize("placeholder", [None, [5], {}, "5"])
def test_a_placeholder_is_an_id(placeholder):
    with pytest.raises(ConfigError, match="the placeholder of audio must be a token's id, found"):
        MultimodalLM(
            {"audio": torch.nn.Identity()}, {"audio": torch.nn.Identity()}, tiny_decoder(), {"audio": placeholder}
        )


def test_a_picture_too_small_for_a_codec_is_named():
    with pytest.raises(ConfigError, match="preprocessor's size does not fit"):
        GroupNorm(32)(torch.randn(1, 32, 1, 1))
    assert GroupNorm(32)(torch.randn(2, 32, 1, 2)).shape == (2, 32, 1, 2)
    assert GroupNorm(64)(torch.randn(1, 64, 1, 1)).shape == (1, 64, 1, 1)
