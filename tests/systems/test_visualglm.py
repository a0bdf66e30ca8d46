"""VisualGLM: the prompt in both languages, one picture, positions as the official function has them, refusals."""

import json

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.backbones.chatglm import GLMPositions
from polymodal.check.demo import byte_tokenizer
from polymodal.check.evidence.visualglm import SPECIALS, small
from polymodal.check.fixture import official_weights, read
from polymodal.checkpoints.chatglm_picture import TEMPLATE, one_question
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.media import Text
from polymodal.data.messages import Message, user
from polymodal.data.template import written
from polymodal.errors import ConfigError, PromptError
from polymodal.systems import get

PICTURE = pm.image(np.zeros((4, 4, 3), dtype=np.uint8))
SYSTEM = get("visualglm")


def told(text):
    return Message(role="assistant", parts=(Text(text),))


def shown(*messages):
    return written(TEMPLATE.render(one_question(messages), ask=messages[-1].role == "user"))


def test_prompts():
    assert shown(user(PICTURE, "What is it?")) == "<image>Q:What is it?\nA:[gMASK]<sop>"
    talk = (user(PICTURE, "What is it?"), told("A cat."), user("Why?"))
    assert shown(*talk) == "<image>Q:What is it?\nA:A cat.\nQ:Why?\nA:[gMASK]<sop>"
    assert shown(*talk, told("So.")) == "<image>Q:What is it?\nA:A cat.\nQ:Why?\nA:[gMASK]<sop>So.<eop>"
    chinese = (user(PICTURE, "\u8fd9\u662f\u4ec0\u4e48\uff1f"), told("\u732b"), user("Why?"))
    ask, answer = "\u95ee\uff1a", "\u7b54\uff1a"
    expected = f"<image>{ask}\u8fd9\u662f\u4ec0\u4e48\uff1f\n{answer}\u732b\n{ask}Why?\n{answer}[gMASK]<sop>"
    assert shown(*chinese) == expected
    with pytest.raises(PromptError, match="takes 1 picture, in front of the conversation; found 2"):
        shown(user(PICTURE, PICTURE, "What are they?"))


def test_the_picture_stands_between_its_tags(tmp_path):
    size = byte_tokenizer(tmp_path, SPECIALS, eos="<eop>", pad="<pad>")
    loaded = SYSTEM.formats[0].model_spec(small(size, 0)).assemble(None, CheckpointFiles(tmp_path))
    row = loaded.processor.encode([user("Why ", PICTURE)], generate=True)
    tokenizer = loaded.processor.tokenizer
    said = "".join("I" if i == size else tokenizer.decode([i], skip_special=False) for i in row.input_ids)
    assert said == "<img>IIII</img>Q:Why \nA:[gMASK]<sop>"


def official_positions(ids, start):
    """As get_masks_and_position_ids_glm of the official chat.py has them."""
    length = ids.index(start)
    places = [*range(length), *[length - 1] * (len(ids) - length)]
    return places, [0] * length + list(range(1, len(ids) - length + 1))


def test_positions():
    rows = [[5, 6, 8, 9, 7, 7], [5, 8, 9, 6]]
    padded = torch.tensor([rows[0], [0, 0, *rows[1]]])
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    places, steps = GLMPositions(start=9)({"input_ids": padded, "attention_mask": mask})["position_ids"]
    for row, ids in enumerate(rows):
        first, second = official_positions(ids, 9)
        real = mask[row].bool()
        assert (places - steps)[row][real].tolist() == first and steps[row][real].tolist() == second
    packed = torch.tensor([[*rows[0], *rows[1]]])
    segments = torch.tensor([[1] * 6 + [2] * 4])
    both = GLMPositions(start=9)({"input_ids": packed, "segments": segments})["position_ids"][:, 0]
    apart = torch.cat((torch.stack((places, steps))[:, 0], torch.stack((places, steps))[:, 1, 2:]), 1)
    assert torch.equal(both, apart)


def test_one_file_of_sat_is_recognised():
    about, _ = read("visualglm_sat")
    shapes = {name: tuple(shape) for name, shape in json.loads(about["shapes"]).items()}
    assert SYSTEM.formats[1].infer(shapes) == {"model_type": "visualglm-sat", "vocab_size": 70}
    assert SYSTEM.formats[1].infer({"transformer.word_embeddings.weight": (70, 48)}) is None


def test_long_prompts_are_read_in_one_piece(tmp_path):
    about, _ = read("visualglm")
    config = json.loads(about["config"]) | {"max_sequence_length": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(official_weights(about), tmp_path / "pytorch_model.bin")
    model = pm.load(tmp_path)
    ids = torch.tensor([[5 + i % 50 for i in range(600)] + [65, 66]])
    wanted = model.logits(input_ids=ids)[0, -1].argmax()
    assert model.generate(input_ids=ids, max_new_tokens=1)[0, -1] == wanted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position_encoding_2d": False}, "position_encoding_2d False is not supported"),
        ({"pre_seq_len": 128}, "pre_seq_len 128 is not supported"),
        ({"quantization_bit": 4}, "quantization_bit 4 is not supported"),
        ({"image_length": 16}, "image_length 16 differs from the 4 queries"),
        ({"hidden_size": 60}, "must be a multiple of"),
    ],
)
def test_other_options_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[0].model_spec({**small(40, 32), **changes})
