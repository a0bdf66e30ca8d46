"""Systems whose processor the library has, by the folder it writes: three turns with pictures, template included."""

import json

import numpy as np
import pytest
import transformers
from PIL import Image as Pillow
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.messages import conversation
from polymodal.systems import get
from tiny_llama import llama_pipeline

PICTURE = Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
IMAGE = {"type": "image", "image": PICTURE}


def text(words):
    return {"type": "text", "text": words}


TURNS = [
    {"role": "user", "content": [IMAGE, text("What is it?")]},
    {"role": "assistant", "content": [text("A cat.")]},
    {"role": "user", "content": [text("And that?"), IMAGE]},
    {"role": "assistant", "content": [text("A dog.")]},
    {"role": "user", "content": [text("Why?")]},
]


def tokenizer(*specials, begin="", **names):
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("Ċ", "Ċ"), ("Ġ", "A"), ("i", "t"), (":", "Ġ"), ("?", "Ċ")]
    vocabulary = letters | {left + right: 256 + index for index, (left, right) in enumerate(merges)}
    pipeline = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in specials])
    if begin:
        pipeline.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, pipeline.token_to_id(begin))]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=pipeline, **names)


CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = (
    "{% for m in messages %}{{ m.role.upper() }}: {% for p in m.content %}{% if p.type == 'image' %}<image>"
    "{% else %}{{ p.text }}{% endif %}{% endfor %}{% if m.role == 'assistant' %}{{ eos_token }}{% else %} {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


class Qwen2VL:
    """Qwen2VLProcessor without its videos, which need torchvision: each `<|image_pad|>` as often as the grid has it."""

    def __init__(self):
        self.tokenizer = tokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
                                   "<|image_pad|>", "<|video_pad|>", pad_token="<|endoftext|>",
                                   eos_token="<|im_end|>", chat_template=CHATML)  # fmt: skip
        self.pictures = transformers.Qwen2VLImageProcessorPil()

    def save_pretrained(self, path):
        self.tokenizer.save_pretrained(path)
        self.pictures.save_pretrained(path)

    def apply_chat_template(self, turns, add_generation_prompt, **_):
        prompt = self.tokenizer.apply_chat_template(turns, add_generation_prompt=add_generation_prompt, tokenize=False)
        grid = self.pictures([PICTURE])["image_grid_thw"][0]
        prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * (int(np.prod(grid)) // 4))
        return {"input_ids": [self.tokenizer(prompt)["input_ids"]]}


def qwen2_vl():
    return Qwen2VL(), get("qwen2-vl").variants[0].config


def emu3():
    from polymodal.systems.emu3.checkpoint import BEGIN, BOS, EOS, IMAGE, OPEN, ROW_END, TAIL

    words = tokenizer(BOS, EOS, IMAGE, BEGIN, OPEN, ROW_END, *TAIL, "<|endoftext|>", bos_token=BOS, eos_token=EOS,
                      pad_token="<|endoftext|>",
                      extra_special_tokens={"image_token": IMAGE, "boi_token": BEGIN, "eoi_token": TAIL[1],
                                            "image_wrapper_token": OPEN, "eof_token": TAIL[0]})  # fmt: skip
    oracle = transformers.Emu3Processor(image_processor=transformers.Emu3ImageProcessor(min_pixels=64 * 64),
                                        tokenizer=words, chat_template=USER)  # fmt: skip
    return oracle, get("emu3").variants[0].config


def chameleon():
    words = tokenizer("<s>", "</s>", "<image>", "<racm3:break>", "<eoss>", "<reserved08706>", "<pad>", begin="<s>",
                      bos_token="<s>", eos_token="</s>", pad_token="<pad>", sep_token="<reserved08706>",
                      extra_special_tokens={"image_token": "<image>", "boi_token": "<racm3:break>",
                                            "eoi_token": "<eoss>"})  # fmt: skip
    oracle = transformers.ChameleonProcessor(image_processor=transformers.ChameleonImageProcessorPil(), tokenizer=words)
    oracle.chat_template = USER
    return oracle, get("chameleon").variants[0].config


def llava_next():
    words = tokenizer("<s>", "</s>", "<image>", begin="<s>", bos_token="<s>", eos_token="</s>")
    oracle = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessorPil(size={"shortest_edge": 336}, crop_size=336),
        tokenizer=words, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=USER)  # fmt: skip
    return oracle, get("llava-1.6").variants[0].config


LLAMA2 = (
    "{% set system, rest = (messages[0].content, messages[1:]) if messages[0].role == 'system' else ('', messages) %}"
    "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token ~ '[INST] ' }}{% if loop.first and system %}"
    "{{ '<<SYS>>\n' ~ system ~ '\n<</SYS>>\n\n' }}{% endif %}{{ m.content.strip() ~ ' [/INST]' }}"
    "{% else %}{{ ' ' ~ m.content.strip() ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("space", ["every", "first"])
@pytest.mark.parametrize("named", [False, True])
def test_text_models_by_their_tokenizer(space, named, tmp_path):
    oracle = transformers.PreTrainedTokenizerFast(
        tokenizer_object=llama_pipeline(space), bos_token="<s>", eos_token="</s>", chat_template=LLAMA2)  # fmt: skip
    oracle.save_pretrained(tmp_path)
    if named:  # as older releases keep it
        (tmp_path / "chat_template.jinja").unlink()
        table = json.loads((tmp_path / "tokenizer_config.json").read_text())
        table["chat_template"] = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": LLAMA2}]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(table))
    config = get("chinese-llama-2").variants[0].config
    ours = get("chinese-llama-2").formats[0].model_spec(config).assemble(None, CheckpointFiles(tmp_path)).processor
    assert ours.template.source.file == ("tokenizer_config.json" if named else "chat_template.jinja")
    turns = [{"role": "system", "content": "Be brief."}, *({"role": turn["role"], "content": "".join(
        each["text"] for each in turn["content"] if each is not IMAGE)} for turn in TURNS)]  # fmt: skip
    for rows in (turns, turns[1:], turns[:2], turns[:4]):
        wanted = oracle.apply_chat_template(rows, add_generation_prompt=True)["input_ids"]
        assert ours.encode(conversation(rows), generate=True).input_ids == wanted


MAKERS = {"qwen2-vl": qwen2_vl, "emu3": emu3, "chameleon": chameleon, "llava-1.6": llava_next}


@pytest.mark.parametrize("system", MAKERS)
def test_three_turns(system, tmp_path):
    oracle, config = MAKERS[system]()
    oracle.save_pretrained(tmp_path)
    ours = get(system).formats[0].model_spec(config).assemble(None, CheckpointFiles(tmp_path)).processor
    assert ours.template.source.file == "chat_template.jinja"
    for count in range(1, len(TURNS) + 1):
        ask = count % 2 == 1
        wanted = oracle.apply_chat_template(TURNS[:count], add_generation_prompt=ask, tokenize=True, return_dict=True)
        row = ours.encode(conversation(TURNS[:count]), generate=ask)
        assert row.input_ids == list(wanted["input_ids"][0]), count
