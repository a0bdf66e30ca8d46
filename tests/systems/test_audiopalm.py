"""AudioPaLM's requests and answers, its audio tokens, the zeros of its new rows, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

import polymodal as pm
from polymodal.check import real
from polymodal.check.evidence.audiopalm import written_folder
from polymodal.check.unit_speech import UNITS, frame_units, recording
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.systems.audiopalm import SYSTEM
from polymodal.systems.audiopalm.tasks import SpokenAnswers


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("audiopalm")
    written_folder(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path):
    return pm.load(folder)


def text_of(model, *content) -> str:
    ids = model.processor([{"role": "user", "content": list(content)}], generate=True)["input_ids"][0].tolist()
    return model.processor.tokenizer.decode(ids, skip_special=False)


def test_a_request_is_its_tag_and_its_input(model) -> None:
    units = "".join(f"<{unit}>" for unit in frame_units(0.4, 2)[0])
    for content, written in (
        (("[ASR English]", recording(0, 0.4)), f"[ASR English] {units}"),
        ((recording(0, 0.4), " [S2ST French English] "), f"[S2ST French English] {units}"),
        (("[ASR AST S2ST French English]", recording(0, 0.4)), f"[ASR AST S2ST French English] {units}"),
        (("[TTS French]Bonjour.",), "[TTS French] Bonjour."),
        (("[MT English German]  Good day. ",), "[MT English German] Good day."),
    ):
        assert text_of(model, *content) == f"<s>{written}"
    assert [SpokenAnswers(None).request(each)[0].text for each in ("Hi.", "[TTS French] Oui.")] == [
        "[TTS English] Hi.",
        "[TTS French] Oui.",
    ]


def test_answers_alone_are_learned(model) -> None:
    talk = [{"role": "user", "content": "[TTS English] Hi"}, {"role": "assistant", "content": "<3><3><1>"}]
    batch = model.processor(talk)
    learned = batch["labels"][0][batch["labels"][0] != -100].tolist()
    assert model.processor.tokenizer.decode(learned, skip_special=False) == "<3><3><1></s>"


def test_tokens_come_25_times_a_second_and_are_not_merged(model, folder) -> None:
    samples = real.speech().numpy()
    count = text_of(model, "[ASR English]", pm.audio((samples, 16_000))).count("<") - 1
    assert count == -(-((len(samples) - 80) // 320) // 2)
    found = model._parts.speaks.spoken("<3><3><1>")
    assert len(found.samples) == 3 * 320 and found.rate == 16_000  # one frame of the voice each


@pytest.mark.parametrize(
    ("answer", "heard", "text", "spoken"),
    [
        ("bonjour", "", "bonjour", False),
        ("<1><2>", "", "", True),
        ("bonjour\ngood day\n<1><2>", "bonjour", "good day", True),
        ("bonjour\ngood day", "bonjour", "good day", False),
    ],
)
def test_answers_are_taken_apart(model, answer, heard, text, spoken) -> None:
    found = model._parts.speaks.spoken(answer)
    assert (found.heard, found.text, found.samples is not None) == (heard, text, spoken)


def test_requests_that_are_none_cost_a_line(model) -> None:
    sound = recording(0, 0.4)
    for content, told in (
        (["Hello"], r"a request begins with its task, as in \[ASR French\] and a recording.*; found 'Hello'"),
        ([sound], "found ''"),
        (["[ASX French]", sound], r"task 'ASX' is not known; it does ASR, AST, S2ST, TTS, MT"),
        (["[ASR French] words", sound], "takes one recording and no words; found 1 recordings and words"),
        (["[ASR French]", sound, sound], "found 2 recordings and no words"),
        (["[TTS French]"], "takes words and no recording; found 0 recordings and no words"),
        (["[TTS ASR French] Hi"], "takes words and no recording"),
    ):
        with pytest.raises(PromptError, match=told):
            model.chat(*content)
    with pytest.raises(PromptError, match="answers one request, without a system message; found 2 messages"):
        model.chat([{"role": "system", "content": "a"}, {"role": "user", "content": "[TTS French] a"}])
    with pytest.raises(MediaError, match="it is silent"):
        model.chat("[ASR French]", pm.audio((np.zeros(9000, np.float32), 16_000)))
    with pytest.raises(PromptError, match=r"speech unit 40 does not exist; the vocoder speaks units 0\.\.39"):
        model._parts.speaks.spoken("<40>")


def test_new_rows_begin_as_zeros() -> None:
    config = {"model_type": "audiopalm", "audio_vocab_size": 5, "text_config": {"hidden_size": 16, "vocab_size": 20,
              "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}}  # fmt: skip
    table = SYSTEM.formats[0].model_spec(config).build().backbone.embed_tokens.weight
    assert table.shape == (25, 16) and not table[20:].any() and bool(table[:20].abs().gt(0).all(1).all())
    with pytest.raises(ConfigError, match="audio_vocab_size: expected a whole number above 0, found 0"):
        SYSTEM.formats[0].model_spec({**config, "audio_vocab_size": 0})


def test_a_tokenizer_of_other_rows_is_refused(tmp_path) -> None:
    config = written_folder(tmp_path)
    config["text_config"]["vocab_size"] -= 1
    config["audio_vocab_size"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = rf"expected {UNITS + 1} audio tokens <0>\.\.<{UNITS}> of ids .* found {UNITS}"
    with pytest.raises(ConfigError, match=told):
        pm.load(tmp_path)
