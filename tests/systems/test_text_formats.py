"""Prompts of the text-only systems, byte for byte as their repositories write them."""

import pytest

from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import Template, written
from polymodal.systems import bayling, chinese_llama_2, language_model, tigerbot


def said(*words: str) -> list[Message]:
    roles = ("user", "assistant")
    return [Message(role=roles[i % 2], parts=(Text(text),)) for i, text in enumerate(words)]


def asked(template: Template, *words: str) -> str:
    return written(template.render(said(*words), ask=True))


def learned(template: Template, *words: str) -> str:
    segments = template.render(said(*words), ask=False)
    return written([segment for segment in segments if getattr(segment, "loss_mask", False)])


def test_tigerbot() -> None:
    assert asked(tigerbot.TEMPLATE, "Q") == "\n\n### Instruction:\nQ\n\n### Response:\n"
    assert asked(tigerbot.TEMPLATE, "Q", "A", "R") == (
        "\n\n### Instruction:\nQ\n\n### Response:\nA\n\n### Instruction:\nR\n\n### Response:\n"
    )
    assert learned(tigerbot.TEMPLATE, "Q", "A") == "A</s>"


def test_bayling() -> None:
    start = (
        "<s>I am an intelligent language assistant developed by the NLP Group of ICT/CAS.\nBelow is a dialog "
        "consisting of instructions and responses. Write a response that completes the request.\n\n"
    )
    assert asked(bayling.TEMPLATE, "Q") == start + "### Instruction:\nQ\n### Response:\n"
    assert asked(bayling.TEMPLATE, "Q", "A", "R") == (
        start + "### Instruction:\nQ\n### Response:\nA</s>\n### Instruction:\nR\n### Response:\n"
    )
    assert learned(bayling.TEMPLATE, "Q", "A") == "A</s>"
    assert bayling.template({"vocab_size": 32000}) is bayling.TEMPLATE


def test_bayling_on_llama_3() -> None:
    template = bayling.template({"vocab_size": 128256})
    assert asked(template, "Q") == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "I am BayLing developed by the NLP Group of ICT/CAS.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert learned(template, "Q", "A") == "A<|eot_id|>"


def test_chinese_llama_2() -> None:
    template = chinese_llama_2.TEMPLATE
    assert "nature.\n\n            If a question" in chinese_llama_2.SYSTEM_MESSAGE
    first = f"<s>[INST] <<SYS>>\n{chinese_llama_2.SYSTEM_MESSAGE}\n<</SYS>>\n\nQ [/INST]"
    assert asked(template, "Q") == first
    assert asked(template, "Q", "A", "R") == f"{first} A </s><s>[INST] R [/INST]"
    assert learned(template, "Q", "A") == " A </s>"  # the space begins the first word


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"vocab_size": 32000, "rms_norm_eps": 1e-5}, "language-model"),
        ({"vocab_size": 99}, "language-model"),
        ({"vocab_size": 32000, "rms_norm_eps": 1e-6}, "language-model"),
        ({"vocab_size": 128256, "rms_norm_eps": 1e-5}, "language-model"),
        ({"vocab_size": 32000, "_name_or_path": "ICTNLP/bayling-13b-v1.1"}, "bayling"),
        ({"vocab_size": 32000, "_name_or_path": "./Chinese-Llama-2-7b"}, "chinese-llama-2"),
        ({"vocab_size": 60515, "rms_norm_eps": 1e-5}, "tigerbot"),
    ],
)
def test_who_reads_a_llama_folder(config: dict[str, object], expected: str) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **config}
    scores = {
        system.id: max(int(layout.matches(config)) for layout in system.formats)
        for system in (bayling.SYSTEM, chinese_llama_2.SYSTEM, tigerbot.SYSTEM, language_model.SYSTEM)
    }
    assert max(scores, key=lambda id: scores[id]) == expected
    assert sorted(scores.values())[-1] > sorted(scores.values())[-2]
