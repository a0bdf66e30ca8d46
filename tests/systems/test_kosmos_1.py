"""KOSMOS-1: its prompt with pictures anywhere, xPos in configs, what is refused; KOSMOS-2's folders stay KOSMOS-2's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal import systems
from polymodal.check.demo import write_config, write_weights
from polymodal.check.evidence import kosmos_1, kosmos_2
from polymodal.checkpoints.kosmos import MASK
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.errors import ConfigError, PromptError

RED, BLUE = (pm.image(Pillow.new("RGB", (61, 47), colour)) for colour in ("red", "blue"))


def folder(place: Path, **text: Any) -> pm.Model:
    config = kosmos_1.small(kosmos_1.write_words(place))
    config["text_config"] |= text
    write_config(place, config=config, generation_config={"eos_token_id": 2})
    model_spec = kosmos_1.SYSTEM.formats[0].model_spec(config)
    write_weights(place, model_spec.build(), model_spec.keys[0])
    return pm.load(place)


def test_pictures_stand_where_they_are_given_between_marks(tmp_path: Path) -> None:
    processor: Any = folder(tmp_path).processor
    asked = Message(role="user", parts=(Text("Here: "), RED, Text(" and "), BLUE, Text("? ")))
    again = Message(role="user", parts=(Text("Sure?"),))
    answer = Message(role="assistant", parts=(Text("Yes"),))
    batch = processor([asked, answer, again, answer])
    slots = batch[MASK][0].bool()
    words = batch["input_ids"][0][~slots].tolist()
    assert processor.tokenizer.decode(words, skip_special=False) == (
        "<s>Here: <image></image> and <image></image>? Yes</s>Sure?Yes</s>"
    )
    marks = [processor.tokenizer.special(name) for name in ("<image>", "</image>")]
    ids = batch["input_ids"][0].tolist()
    start = ids.index(marks[0])
    assert ids[start + 1 : start + 10] == [*range(4, 12), marks[1]] and int(slots.sum()) == 16
    learned = batch["labels"][0]
    assert processor.tokenizer.decode(learned[learned >= 0].tolist(), skip_special=False) == "Yes</s>" * 2


def test_a_picture_too_many_names_count_and_limit(tmp_path: Path) -> None:
    model = folder(tmp_path, max_position_embeddings=40)
    with pytest.raises(PromptError, match=r"\d+ tokens.*40"):
        model.chat(RED, BLUE, RED, BLUE, RED, "?", max_tokens=4)


def test_users_cannot_type_the_marks(tmp_path: Path) -> None:
    processor: Any = folder(tmp_path).processor
    batch = processor([Message(role="user", parts=(Text("a<image>b"),))], generate=True)
    assert processor.tokenizer.special("<image>") not in batch["input_ids"][0].tolist()
    assert not batch[MASK].any()


@pytest.mark.parametrize("base", [0, -3, "512", True, float("nan")])
def test_a_base_that_is_no_length_is_refused(base: Any) -> None:
    with pytest.raises(ConfigError, match="xpos_scale_base"):
        kosmos_1.SYSTEM.formats[0].model_spec({"text_config": {"xpos_scale_base": base}})


def test_a_picture_at_another_place_is_another_prompt(tmp_path: Path) -> None:
    model = folder(tmp_path)
    torch.manual_seed(0)
    orders = ((RED, BLUE), (BLUE, RED))
    made = [model.processor([Message(role="user", parts=(a, Text("x"), b, Text("y")))]) for a, b in orders]
    with torch.no_grad():
        first, second = (model.logits(**batch)[0, -1] for batch in made)
    assert (first - second).abs().max() > 1e-4


def test_kosmos_2_stays_kosmos_2(tmp_path: Path) -> None:
    config = kosmos_2.small(kosmos_2.write_words(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    model_spec = kosmos_2.SYSTEM.formats[0].model_spec(config)
    write_weights(tmp_path, model_spec.build(), model_spec.keys[0])
    assert pm.load(tmp_path).system.id == "kosmos-2"
    assert systems.get("KOSMOS-1").id == "kosmos-1"
