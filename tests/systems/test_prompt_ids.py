"""Systems on a tokenizer of LLaMA's kind: three turns have the ids that the published code gives, loss on the answers.

Written out beside each system: the calls of its tokenizer that the published code makes, with special tokens inside a
text where that code has them there, and in between the begin token and the placeholders that it joins by their ids.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from PIL import Image as Pillow
from tokenizers import AddedToken, Tokenizer

from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.chat_formats import LLAVA_SYSTEM
from polymodal.data.messages import conversation
from polymodal.systems import get
from polymodal.systems.bayling import TEMPLATE as BAYLING
from polymodal.systems.chinese_llama_2 import SYSTEM_MESSAGE
from polymodal.systems.llama_adapter_v2.checkpoint import ASKING
from polymodal.systems.minigpt_4.checkpoint import SYSTEM_WORDS as MINIGPT_SYSTEM
from polymodal.systems.video_llama.processing import SYSTEM_WORDS as VIDEO_SYSTEM
from published_folders import published_folder
from tiny_llama import llama_pipeline

PICTURE = {"type": "image", "image": Pillow.fromarray(np.zeros((60, 40, 3), dtype=np.uint8))}
TALK = [
    {"role": "user", "content": [PICTURE, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "And that?"},
    {"role": "assistant", "content": "A dog."},
    {"role": "user", "content": "Why?"},
]
BOS = ("<s>",)  # an id that published code joins by hand, or the tokenizer puts in front of the call that follows
SEEN = object()  # the placeholders of the picture
VICUNA = "What is it? ASSISTANT: A cat.</s>USER: And that? ASSISTANT: A dog.</s>USER: Why? ASSISTANT:"
HUMAN = "What is it?###Assistant: A cat.###Human: And that?###Assistant: A dog.###Human: Why?###Assistant:"
ROUNDS = "Question: What is it? Answer: A cat.\nQuestion: And that? Answer: A dog.\nQuestion: Why? Answer:"
# name -> system, variant, format, tokens added to the vocabulary, calls of the tokenizer
CASES = {
    "llava v1": ("llava", "7b-v1.1", 0, (), (BOS, f"{LLAVA_SYSTEM} USER: <im_start>{{seen}}<im_end>\n{VICUNA}")),
    "llava, later": ("llava", "llama-2-13b", 0, (), (BOS, f"{LLAVA_SYSTEM} USER: ", SEEN, f"\n{VICUNA}")),
    "llava-1.5 official": ("llava-1.5", {"mm_use_im_start_end": False}, 1, (),
                           (BOS, f"{LLAVA_SYSTEM} USER: ", SEEN, f"\n{VICUNA}")),
    "llava-1.5": ("llava-1.5", 0, 0, ("<image>",), (BOS, f"{LLAVA_SYSTEM} USER: {{seen}}\n{VICUNA}")),
    "llava-1.6": ("llava-1.6", 0, 0, ("<image>",), (BOS, f"{LLAVA_SYSTEM} USER: {{seen}}\n{VICUNA}")),
    "llava-1.6 mistral": ("llava-1.6", 1, 0, ("<image>",), (BOS,
        "[INST] {seen}\nWhat is it? [/INST] A cat.</s>[INST] And that? [/INST] A dog.</s>[INST] Why? [/INST]")),
    "mplug-owl2": ("mplug-owl2", 0, 0, (), (BOS, "USER: ", SEEN, VICUNA)),
    "minigpt-4": ("minigpt-4", 0, 0, (),
                  (BOS, f"{MINIGPT_SYSTEM}###Human: <Img>", SEEN, f"</Img> {HUMAN} ")),
    "video-llama": ("video-llama", 0, 0, (), (BOS, f"{VIDEO_SYSTEM}###Human: <Image>", SEEN, f"</Image> {HUMAN}")),
    "cogvlm": ("cogvlm", 0, 0, (), (BOS, SEEN, ROUNDS)),
    "cogagent": ("cogagent", "chat", 0, (), (BOS, SEEN, " [INST] What is it? [/INST] A cat. [INST] And that? [/INST] A "
                 "dog. [INST] Why? [/INST] ")),
    "cogagent, vqa": ("cogagent", "vqa", 0, (), (BOS, SEEN, ROUNDS)),
    "cogcom": ("cogcom", 0, 0, (), (BOS, SEEN, "What is it?", "A cat.", BOS, SEEN, "And that?", "A dog.", BOS, SEEN,
               "Why?")),
    "instructblip": ("instructblip", "vicuna-7b", 0, ("<image>",),
                     (SEEN, BOS, "What is it? A cat.</s>And that? A dog.</s>Why?")),
    "idefics": ("idefics", 0, 0, ("<fake_token_around_image>", "<image>", "<end_of_utterance>"), (
        "<s>User:<fake_token_around_image>{seen}<fake_token_around_image>What is it?<end_of_utterance>\nAssistant: A "
        "cat.<end_of_utterance>\nUser: And that?<end_of_utterance>\nAssistant: A dog.<end_of_utterance>\nUser: Why?"
        "<end_of_utterance>\nAssistant:",)),
    "pandagpt": ("pandagpt", 0, 0, (), (BOS, "### Human: <Img>", SEEN, "</Img> What is it?\n### Assistant:",
                 "A cat.\n###", "Human: And that?\n### Assistant:", "A dog.\n###", "Human: Why?\n### Assistant:")),
    "bayling": ("bayling", 0, 0, (), (BOS, f"{BAYLING.default_system}\n### Instruction:\nWhat is it?\n### Response:\n"
                "A cat.</s>\n### Instruction:\nAnd that?\n### Response:\nA dog.</s>\n### Instruction:\nWhy?\n"
                "### Response:\n")),
    "chinese-llama-2": ("chinese-llama-2", 0, 0, (), (
        BOS, f"[INST] <<SYS>>\n{SYSTEM_MESSAGE}\n<</SYS>>\n\nWhat is it? [/INST] A cat. </s>",
        BOS, "[INST] And that? [/INST] A dog. </s>", BOS, "[INST] Why? [/INST]")),
    "tigerbot": ("tigerbot", {}, 1, (), ("\n\n### Instruction:\nWhat is it?\n\n### Response:\nA cat.\n\n"
                 "### Instruction:\nAnd that?\n\n### Response:\nA dog.\n\n### Instruction:\nWhy?\n\n### Response:\n",)),
    "llama-adapter-v2": ("llama-adapter-v2", 0, 0, (), (SEEN, BOS, f"{ASKING}What is it?\n\n### Response:")),
}  # fmt: skip
TEXT_ONLY = {"bayling", "chinese-llama-2", "tigerbot"}


def real_pipeline(added):
    """The tokenizer that llava-hf/llava-1.5-7b-hf was published with."""
    pipeline = Tokenizer.from_file(str(published_folder("llava-1.5-7b-hf") / "tokenizer.json"))
    pipeline.add_special_tokens([AddedToken(each, normalized=False, special=True) for each in added])
    return pipeline


def variant_of(record, name):
    return next(each for each in record.variants if each.name == name)


def processor_of(path, name, space):
    system, variant, number, added, _ = CASES[name]
    record = get(system)
    if isinstance(variant, dict):
        config = {**(record.variants[0].config or {}), **variant}
        if "mm_use_im_start_end" in variant:
            config = {**variant_of(get("llava"), "llama-2-13b").config, "mm_projector_type": "mlp2x_gelu", **variant}
    else:
        chosen = record.variants[variant] if isinstance(variant, int) else variant_of(record, variant)
        config = chosen.config
    if system == "tigerbot":
        config = {**get("bayling").variants[0].config, "vocab_size": 60512}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    pipeline = real_pipeline(added) if space == "real" else llama_pipeline(space, added)
    oracle = transformers.PreTrainedTokenizerFast(tokenizer_object=pipeline, **names)
    oracle.save_pretrained(path)
    if system == "instructblip":
        words = transformers.BertTokenizer(
            vocab={"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "[MASK]": 4, "what": 5}
        )
        words.save_pretrained(path / "qformer_tokenizer")
    module = SimpleNamespace(context=SimpleNamespace(placeholders={}))
    spec = record.formats[number].model_spec(config)
    return spec.assemble(module, CheckpointFiles(path)).processor, oracle


def published(oracle, calls, row, placeholder):
    """The ids of the calls; the number of placeholders is the row's, since it follows from the picture alone."""
    span = row.media_spans[0] if row.media_spans else None
    seen = row.input_ids[span.first : span.first + span.item.tokens] if span is not None else []
    ids = []
    for call in calls:
        if call is SEEN:
            ids += seen
        elif isinstance(call, tuple):
            ids += oracle.convert_tokens_to_ids(list(call))
        else:
            ids += oracle(call.format(seen=placeholder * len(seen)), add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("space", ["every", "first", "real"])
@pytest.mark.parametrize("name", CASES)
def test_three_turns(name, space, tmp_path):
    calls = CASES[name][-1]
    processor, oracle = processor_of(tmp_path, name, space)
    placeholder = ""
    if name == "llava v1":
        oracle.add_tokens(["<im_patch>", "<im_start>", "<im_end>"], special_tokens=True)
        placeholder = "<im_patch>"
    elif any("{seen}" in call for call in calls if isinstance(call, str)):
        placeholder = "<image>"
    talk = TALK[:1] if name == "llama-adapter-v2" else TALK
    if name in TEXT_ONLY:
        talk = [{"role": "user", "content": "What is it?"}, *TALK[1:]]
    row = processor.encode(conversation(talk), generate=True)
    assert row.input_ids == published(oracle, calls, row, placeholder)


@pytest.mark.parametrize("space", ["every", "first", "real"])
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"llama-adapter-v2"}))
def test_loss_lies_on_answers(name, space, tmp_path):
    processor, _ = processor_of(tmp_path, name, space)
    first = "What is it?" if name in TEXT_ONLY else TALK[0]["content"]
    row = processor.encode(conversation([{"role": "user", "content": first}, *TALK[1:4]]))
    learned = [index for index, loss in zip(row.input_ids, row.loss_mask, strict=True) if loss]
    words = "".join(processor.tokenizer.decode([index]) for index in learned).replace(" ", "")
    for mark in ("###", "\n"):
        words = words.replace(mark, "")
    # CogVLM and CogAgent are trained on the last answer; the others are part of its question.
    assert words == ("Adog." if name.startswith(("cogvlm", "cogagent")) else "Acat.Adog."), words
