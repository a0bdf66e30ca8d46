"""Every token string of every chat system's tokenizer, typed by a user: answered or refused."""

from pathlib import Path

import pytest

import polymodal as pm
from catalogue.test_flows import CHATS
from headline_folders import captured
from polymodal.serve.app import create_app
from polymodal.serve.models import ServedModel
from served import SETTINGS, call, running

AT_ONCE = 100  # ordinary tokens of one message; special ones are typed one by one, too


def talk(text: str):
    return {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 1}


@pytest.mark.parametrize("stem", CHATS)
def test_typed_tokens_are_answered_or_refused(stem: str, tmp_path: Path) -> None:
    model = pm.load(captured(stem, tmp_path / stem))
    tokenizer = model.processor.tokenizer
    special = [*tokenizer.special_tokens, "<image>", "</s>", "<|im_end|>", "[INST]", "<|endoftext|>"]
    strings = [tokenizer.decode([index], skip_special=False) for index in range(tokenizer.vocab_size)]
    texts = [f"a {each} b" for each in dict.fromkeys(special)]
    texts += [" ".join(strings[first : first + AT_ONCE]) for first in range(0, len(strings), AT_ONCE)]
    served = ServedModel("m", model, SETTINGS)
    with running(create_app({"m": served}, SETTINGS)) as address:
        expected = call(address, "/v1/chat/completions", talk("hello"))
        assert expected[0] == 200
        for text in texts:
            status, found = call(address, "/v1/chat/completions", talk(text))
            assert status in (200, 400), (text, found)
        again = call(address, "/v1/chat/completions", talk("hello"))
        assert again[0] == 200 and again[1]["choices"] == expected[1]["choices"]
