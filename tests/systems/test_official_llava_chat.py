"""LLaVA's official layout answers with and without its marks around pictures, from each kind of vocabulary file."""

import json
import shutil
from pathlib import Path

import pytest
import transformers

import polymodal as pm
from polymodal.check.demo import write_weights
from polymodal.check.evidence import llava as evidence
from polymodal.data.chat_formats import LLAVA_SYSTEM
from polymodal.data.messages import conversation
from polymodal.systems import get
from tiny_llama import write_llama

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
MODEL = Path(__file__).parents[1] / "fixtures" / "tokenizers" / "llama.model"
TALK = [
    {"role": "user", "content": [{"type": "image", "image": CAT}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": [{"type": "text", "text": "And that?"}, {"type": "image", "image": CAT}]},
    {"role": "assistant", "content": "A dog."},
    {"role": "user", "content": "Why <image> </s>?"},
]
# What liuhaotian/llava-v1.5-7b says in tokenizer_config.json, as far as it matters for ids.
SETTINGS = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False,
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}  # fmt: skip


def official(path: Path, *, marks: bool, vocabulary: str) -> pm.Model:
    """A tiny checkpoint in the official layout of LLaVA-1.5."""
    if vocabulary == "tokenizer.json":
        size = write_llama(path, "first")
    else:
        shutil.copy(MODEL, path / "tokenizer.model")
        size = 600
        (path / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    config = evidence.small(size + 3 * marks, path / "clip")
    config |= {"mm_use_im_start_end": marks, "mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad"}
    (path / "config.json").write_text(json.dumps(config))
    spec = get("llava-1.5").formats[1].model_spec(config)
    write_weights(path, spec.build(), spec.keys[0])
    return pm.load(path)


@pytest.mark.parametrize("vocabulary", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("marks", [False, True])
def test_it_answers_about_pictures(marks, vocabulary, tmp_path):
    model = official(tmp_path, marks=marks, vocabulary=vocabulary)
    assert model.chat_format == "llava-1.5" and "chat format: llava-1.5" in repr(model)
    reply = model.chat(TALK, max_tokens=4)
    assert reply.tokens["image"] == 32
    stream = model.stream(TALK, max_tokens=4)
    assert "".join(stream) == reply.text


@pytest.mark.parametrize("vocabulary", ["tokenizer.json", "tokenizer.model"])
def test_texts_around_a_picture_are_tokenised_apart(vocabulary, tmp_path):
    """As the official tokenizer_image_token does: split at `<image>`, the begin token before the first text alone."""
    model = official(tmp_path, marks=False, vocabulary=vocabulary)
    oracle = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = (
        f"{LLAVA_SYSTEM} USER: ", "\nWhat is it? ASSISTANT: A cat.</s>USER: And that?",
        "\n ASSISTANT: A dog.</s>USER: Why? ASSISTANT:",
    )  # fmt: skip
    first, *others = (oracle(text, add_special_tokens=False)["input_ids"] for text in texts)
    wanted = [oracle.bos_token_id, *first]
    for ids in others:
        wanted += [-200] * 16 + ids
    talk = [*TALK[:4], {"role": "user", "content": "Why?"}]
    assert model.processor.encode(conversation(talk), generate=True).input_ids == wanted


@pytest.mark.parametrize("marks", [False, True])
def test_a_chat_template_beside_it_writes_its_placeholders(marks, tmp_path):
    official(tmp_path, marks=marks, vocabulary="tokenizer.json")
    template = (
        "{% for m in messages %}{{ m.role.upper() }}: {% for p in m.content %}{% if p.type == 'image' %}<image>\n"
        "{% else %}{{ p.text }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    (tmp_path / "chat_template.jinja").write_text(template)
    model = pm.load(tmp_path)
    assert model.chat_format == "chat_template.jinja"
    assert model.chat(TALK, max_tokens=4).tokens["image"] == 32
    row = model.processor.encode(conversation(TALK), generate=True)
    start = model.processor.tokenizer.special_tokens.get("<im_start>")
    assert row.input_ids.count(start) == (2 if marks else 0)
    assert model.processor.tokenizer.special("</s>") not in row.input_ids, "neither template nor user writes one"
