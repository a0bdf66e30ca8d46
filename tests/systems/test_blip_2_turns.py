"""Several turns of BLIP-2: the chain of questions and answers of LAVIS's demonstration, by the plain tokenizer.

" ".join("Question: {} Answer: {}.") + " Question: {} Answer:"      (LAVIS, examples/blip2_instructed_generation)
"""

import pytest
import torch
import transformers
from PIL import Image

from polymodal.check.demo import byte_tokenizer
from polymodal.check.evidence import blip_2
from polymodal.checkpoints.record import CheckpointFiles

PICTURE = {"type": "image", "image": Image.new("RGB", (40, 40), (90, 20, 10))}
ROUNDS = [("which city is this?", "singapore"), ("why?", "it has a statue of a merlion"), ("where from?", "the sea")]
WORD = {"opt": "Answer", "t5": "Short answer"}


def prompt(kind, rounds):
    """What the demonstration writes for earlier rounds and one more question; the words of the paper for Flan-T5."""
    *context, (question, _) = rounds
    said = " ".join(f"Question: {asked} {WORD[kind]}: {answer}." for asked, answer in context)
    return f"{said} Question: {question} {WORD[kind]}:".strip()


@pytest.fixture(scope="module", params=["opt", "t5"])
def loaded(request, tmp_path_factory):
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    begin = "</s>" if kind == "opt" else ""
    size = byte_tokenizer(folder, ["<pad>", "</s>", "<image>"], bos=begin, eos="</s>", pad="<pad>")
    text = {"opt": blip_2.SMALL_OPT, "t5": blip_2.SMALL_T5}[kind]
    spec = blip_2.SYSTEM.formats[0].model_spec(blip_2.small(text, size, 2))
    plain = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return kind, spec.assemble(spec.build(), CheckpointFiles(folder)).processor, plain


def messages(rounds, answered):
    turns = []
    for asked, answer in rounds:
        content = [asked] if turns else [PICTURE, asked]
        turns += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return turns if answered else turns[:-1]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_prompt_of_some_rounds_is_the_demonstrations(loaded, count):
    kind, processor, plain = loaded
    words = plain(prompt(kind, ROUNDS[:count]), add_special_tokens=False)["input_ids"]
    wanted = [2] * 4 + ([1, *words] if kind == "opt" else [*words, 1])
    batch = processor(messages(ROUNDS[:count], False), generate=True)
    assert batch["input_ids"][0].tolist() == wanted
    if kind == "t5":
        assert batch["decoder_input_ids"].tolist() == [[0]]


def test_flan_t5_learns_the_last_answer(loaded):
    kind, processor, plain = loaded
    if kind == "opt":
        pytest.skip("a decoder learns every answer")
    batch = processor(messages(ROUNDS, True))
    answer = plain(ROUNDS[-1][1], add_special_tokens=False)["input_ids"]
    assert batch["decoder_input_ids"].tolist() == [[0, *answer, 1]]
    assert batch["labels"].tolist() == [[*answer, 1, -100]]
    asked = plain(prompt(kind, ROUNDS), add_special_tokens=False)["input_ids"]
    assert torch.equal(batch["input_ids"], torch.tensor([[2] * 4 + [*asked, 1]]))
