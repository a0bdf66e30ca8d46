"""InternLM-XComposer: the prompt byte for byte, published configs and their list of tensors, refused options."""

import json

import numpy as np
import pytest

import polymodal as pm
from polymodal.check.demo import byte_tokenizer
from polymodal.check.evidence.internlm_xcomposer import small
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.media import Text
from polymodal.data.messages import Message, user
from polymodal.errors import ConfigError
from polymodal.systems import get
from polymodal.systems.internlm_xcomposer.checkpoint import ANSWERED, ASKED, META

FORMAT = get("internlm-xcomposer").formats[0]
PICTURE = pm.image(np.zeros((4, 4, 3), dtype=np.uint8))


def test_prompt(tmp_path):
    size = byte_tokenizer(tmp_path, ["<unk>", "<s>", "</s>", ASKED, ANSWERED], bos="<s>", eos="</s>", pad="</s>")
    loaded = FORMAT.model_spec(small(size)).assemble(None, CheckpointFiles(tmp_path))
    told = Message(role="assistant", parts=(Text("A cat."),))
    row = loaded.processor.encode([user(PICTURE, "What is it?"), told, user("Why?")], generate=True)
    ids, tokenizer = row.input_ids, loaded.processor.tokenizer
    first = ids.index(size)
    assert ids[first : first + 6] == [size] * 6 and size not in ids[first + 6 :]
    assert tokenizer.decode(ids[:first], skip_special=False) == f"<s>{META} <|User|>:"
    assert META.startswith("meta instruction\nYou are an AI assistant whose name is \u6d66\u8bed.\n- \u6d66\u8bed is a")
    assert META.endswith("such as English and \u4e2d\u6587.\nconversation\n")
    said = tokenizer.decode(ids[first + 6 :], skip_special=False)
    assert said == (
        "What is it?\n<TOKENS_UNUSED_0> <|Bot|>:A cat.<TOKENS_UNUSED_1> <|User|>:Why?\n<TOKENS_UNUSED_0> <|Bot|>:"
    )


def test_answers_end_at_ids_that_the_code_has_as_numbers():
    assert FORMAT.model_spec(small(40)).ends == ((103027, 103028, 2), 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intern_converted_llm": False}, "intern_converted_llm false is not supported"),
        ({"internlm_lora": {"learn_param": ["q", "head"]}}, r"learn_param: unknown \['head'\]; known: q, k, v, o, ffn"),
    ],
)
def test_other_options_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        FORMAT.model_spec({**small(40), **changes})


def test_lora_cfg_says_the_same():
    config = small(40)
    older = {**config, "lora_cfg": config["internlm_lora"]}
    del older["internlm_lora"]
    names = set(FORMAT.model_spec(older).build().state_dict())
    assert names == set(FORMAT.model_spec(config).build().state_dict())
    assert any("mlp.down_proj.adapters" in name for name in names)
    assert json.dumps(older)  # a config.json may say it
