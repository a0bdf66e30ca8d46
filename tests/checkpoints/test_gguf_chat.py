"""Models in llama.cpp's files chat with the tokenizer, the format and the ends that their files carry."""

from pathlib import Path

import jinja2
import pytest
import torch
import transformers
from llama_cpp_files import write_text
from test_gguf import TINY, llava_model, random, write_both
from tokenizers import pre_tokenizers

import polymodal as pm
from polymodal.data.messages import conversation
from polymodal.data.sentencepiece import read_sentencepiece
from polymodal.data.template import written
from polymodal.errors import ConfigError, PromptError

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
QWEN = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set messages = messages[1:] %}"
    "{% else %}{% set system = false %}{% endif %}{% for message in messages %}"
    "{% if loop.first and system %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '<s>[INST] ' + content + ' [/INST]' }}{% else %}{{ ' ' + content + ' </s>' }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ '<s>' }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
)
TALK = [("user", "Hello"), ("assistant", "Hi"), ("user", "How are you?")]
SYSTEM = [("system", "Be brief."), *TALK]


def messages(talk):
    return [{"role": role, "content": text} for role, text in talk]


def vocabulary(*specials: str, **ids: int) -> dict:
    """A byte-level vocabulary: special tokens, the letters of the bytes and one merge; ids by role."""
    tokens = [*specials, *LETTERS, LETTERS[40] + LETTERS[41]]
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(specials) + [1] * (len(LETTERS) + 1),
        "tokenizer.ggml.merges": [f"{LETTERS[40]} {LETTERS[41]}"],
        **{f"tokenizer.ggml.{role}_token_id": index for role, index in ids.items()},
    }  # fmt: skip


def saved(path, *specials: str, template: str | None, kind: str = "gpt2", **ids: int):
    """A tiny random model with that vocabulary."""
    said = vocabulary(*specials, **ids) | {"tokenizer.ggml.model": kind}
    config = transformers.LlamaConfig(**{**TINY, "vocab_size": len(said["tokenizer.ggml.tokens"])})
    model = random(transformers.LlamaForCausalLM(config))
    if template is not None:
        said["tokenizer.chat_template"] = template
    write_text(path, model.state_dict(), config, metadata=said)
    return model


def test_chat_with_the_files_own_format_and_ends(tmp_path):
    saved(tmp_path / "a.gguf", "<|im_start|>", "<|im_end|>", template=QWEN, eos=1, padding=0)
    model = pm.load(tmp_path / "a.gguf")
    assert model.can[0] == "chat" and model._parts.ends == ((1,), 0)
    batch = model.processor(conversation([{"role": "user", "content": "Hi <|im_end|>"}]), generate=True)
    ids = batch["input_ids"][0]
    # What a person types never becomes a control token: two turns end, and the answer begins.
    assert (ids == 1).sum() == 2 and (ids == 0).sum() == 3
    asked = model.chat("Hi", max_tokens=6)
    assert asked.finish_reason in ("length", "stop")
    back = pm.load(model.save(tmp_path / "saved"))
    assert back.chat("Hi", max_tokens=6).text == asked.text and back._parts.ends == ((1,), 0)


def test_a_model_without_a_format_goes_on_with_a_text(tmp_path):
    saved(tmp_path / "a.gguf", "<s>", "</s>", template=None, bos=0, eos=1, eot=1)
    model = pm.load(tmp_path / "a.gguf")
    ids = model.processor(conversation([{"role": "user", "content": "Once"}]), generate=True)["input_ids"][0]
    assert ids[0] == 0 and len(ids) == 5 and model.processor.tokenizer.decode(ids[1:].tolist()) == "Once"
    assert model._parts.ends == ((1,), None)


@pytest.mark.parametrize(
    ("source", "talks"),
    [(QWEN, (TALK, SYSTEM)), (LLAMA3, (TALK, SYSTEM)), (LLAMA2, (TALK, SYSTEM)), (MISTRAL, (TALK,))],
)
def test_the_template_of_the_metadata_is_run(tmp_path, source, talks):
    specials = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|begin_of_text|>", "<|start_header_id|>",
                "<|end_header_id|>", "<|eot_id|>")  # fmt: skip
    saved(tmp_path / "a.gguf", *specials, template=source, eos=1, bos=4 if source is LLAMA3 else 2)
    model = pm.load(tmp_path / "a.gguf")
    assert model.chat_format == "tokenizer.chat_template"
    for talk in talks:
        wanted = jinja2.Template(source).render(messages=messages(talk), add_generation_prompt=True)
        segments = model.processor.template.render(conversation(messages(talk)), ask=True)
        begin = "<s>" if source is QWEN else ""  # which the metadata adds to a prompt that does not begin so
        assert written(segments) == begin + wanted
    back = pm.load(model.save(tmp_path / "saved"))
    assert back.chat_format == "chat_template.jinja"
    rows = [each.processor.encode(conversation(messages(TALK)), generate=True).input_ids for each in (model, back)]
    assert rows[0] == rows[1]


def test_a_template_that_fails_leaves_everything_but_chat(tmp_path):
    saved(tmp_path / "a.gguf", "<s>", template="{{ messages.nothing.at_all }}", bos=0)
    model = pm.load(tmp_path / "a.gguf")
    assert model.logits(input_ids=torch.tensor([[1, 2]])).shape[1] == 2
    with pytest.raises(PromptError, match=r"tokenizer.chat_template: the chat template cannot be used"):
        model.chat("Hi")


def test_a_vocabulary_that_is_not_read_is_named_when_it_is_missed(tmp_path):
    saved(tmp_path / "a.gguf", "<s>", template=None, kind="bert", bos=0)
    model = pm.load(tmp_path / "a.gguf")
    assert model.can == ("logits", "features", "generate")
    with pytest.raises(ConfigError, match=r"cannot chat.*vocabulary is of kind 'bert'; expected 'gpt2' or 'llama'"):
        model.chat("Hi")


def test_a_file_is_not_told_by_what_lies_beside_it(tmp_path):
    saved(tmp_path / "a.gguf", "<|im_start|>", "<|im_end|>", template=QWEN, eos=1)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert pm.load(tmp_path / "a.gguf")._parts.ends == ((1,), None)
    assert pm.load(tmp_path)._parts.ends == ((7,), None)


def pieces() -> dict:
    """A vocabulary of sentencepiece, as files of LLaMA have it."""
    path = Path(__file__).parents[1] / "fixtures" / "tokenizers" / "llama.model"
    model = read_sentencepiece(path.read_bytes(), where="llama.model")
    said = {"model": "llama", "tokens": list(model.pieces), "scores": list(model.scores), "unknown_token_id": 0,
            "token_type": list(model.kinds), "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    return {f"tokenizer.ggml.{name}": value for name, value in said.items()}


@pytest.mark.parametrize("said", [vocabulary("<s>", "</s>", bos=0, eos=1), pieces()], ids=["bytes", "pieces"])
def test_llava_looks_at_a_picture(tmp_path, said):
    """Its vocabulary has no placeholder: one is put behind it."""
    size = len(said["tokenizer.ggml.tokens"])
    write_both(tmp_path, llava_model(vocab_size=size), vocab_size=size, text_metadata=said)
    model = pm.load(tmp_path)
    assert model.can == ("chat", "logits", "features", "generate")
    picture = pm.image("examples/cat.jpg")
    batch = model.processor(conversation([{"role": "user", "content": [picture, "What?"]}]), generate=True)
    assert (batch["input_ids"] == size).sum() == 4 and batch["pixel_values"].shape == (1, 3, 28, 28)
    reply = model.chat(picture, "What is in this picture?", max_tokens=6)
    assert reply.tokens["image"] == 4
    back = pm.load(model.save(tmp_path / "saved"))
    assert back.chat(picture, "What is in this picture?", max_tokens=6).text == reply.text
