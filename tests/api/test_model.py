"""`import polymodal as pm`: the same answers from every way of asking, exact tensors, folders that come back."""

import base64
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal import systems
from polymodal.errors import ConfigError, MediaError, PromptError, UnknownName, WeightsError

TINY = str(Path(__file__).parents[1] / "cli" / "tiny_system.py")


@pytest.fixture(scope="module")
def model():
    return pm.load(TINY)


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("media") / "photo.png"
    Image.fromarray(numpy.random.default_rng(1).integers(0, 255, (20, 20, 3), dtype=numpy.uint8)).save(path)
    return path


def test_every_way_to_ask_gives_the_same_answer(model, photo):
    data = base64.b64encode(photo.read_bytes()).decode()
    ways = [
        (pm.image(photo), "what?"),
        (pm.image(photo.read_bytes()), pm.text("what?")),
        ([{"role": "user", "content": [{"type": "image", "image": str(photo)}, {"type": "text", "text": "what?"}]}],),
        ([{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
            {"type": "text", "text": "what?"}]}],),
    ]  # fmt: skip
    replies = [model.chat(*way, max_tokens=6) for way in ways]
    assert len({reply.text for reply in replies}) == 1
    assert all(reply.tokens == replies[0].tokens for reply in replies)


def test_stream_is_the_answer_in_pieces(model):
    stream = model.stream("what?", max_tokens=8)
    with pytest.raises(PromptError):
        _ = stream.reply
    assert "".join(stream) == stream.reply.text == model.chat("what?", max_tokens=8).text


def test_logprobs_are_those_of_the_logits(model, photo):
    messages = [{"role": "user", "content": [pm.image(photo), "what?"]}]
    assert model.chat(messages, max_tokens=1).logprobs == ()
    reply = model.chat(messages, max_tokens=1, logprobs=0)
    logits = model.logits(**model.processor(messages, generate=True))
    assert reply.logprobs == pytest.approx([float(logits[0, -1].log_softmax(-1).max())], abs=1e-5)


def test_beams(model):
    reply = model.chat("what?", max_tokens=4, beams=2)
    assert reply.text and reply.tokens["generated"] <= 4 and reply.logprobs == ()


def test_options_are_checked(model):
    with pytest.raises(UnknownName, match="did you mean 'temperature'"):
        model.chat("what?", temprature=1.0)
    with pytest.raises(ConfigError, match="max_tokens"):
        model.chat("what?", max_tokens=0)
    with pytest.raises(PromptError):
        model.chat()


def test_too_long_is_refused_with_the_counts(model):
    with pytest.raises(PromptError, match="512"):
        model.chat("a" * 600)


def test_labels_and_vectors(model, photo):
    labels = model.classify(photo, ["cat", "dog"])
    assert sum(label.probability for label in labels) == pytest.approx(1)
    assert labels[0].probability >= labels[1].probability
    with pytest.raises(ConfigError):
        model.classify(photo, ["cat", "cat"])
    vectors = model.embed([photo, pm.text("cat")])
    assert vectors.shape == (2, 32) and vectors.dtype == torch.float32 and not vectors.requires_grad


def test_transcribe_takes_samples(model):
    assert len(model.transcribe((numpy.zeros(800, dtype=numpy.float32), 8000)).text) == 1


def test_media_by_content(photo, tmp_path):
    moved = tmp_path / "no_extension"
    moved.write_bytes(photo.read_bytes())
    assert repr(pm.media(moved)) == "Image('no_extension')"
    (tmp_path / "x.wav").write_text("words")
    with pytest.raises(MediaError, match="plain text"):
        pm.media(tmp_path / "x.wav")


def catalogue_of_one(monkeypatch, model):
    """Pretend that the toy is in the catalogue, since folders may only name our own systems."""
    for module in (systems, systems._lookup):
        monkeypatch.setattr(module, "ids", lambda: ["tiny"])
        monkeypatch.setattr(module, "get", lambda name: model.system)


def test_saved_folder_comes_back(model, tmp_path, monkeypatch):
    catalogue_of_one(monkeypatch, model)
    with torch.no_grad():
        changed = pm.load(TINY)
        for parameter in changed.module.parameters():
            parameter.mul_(1.5)
    changed.save(tmp_path / "saved")
    back = pm.load(tmp_path / "saved")
    batch = model.processor("what?")
    assert torch.equal(back.logits(**batch), changed.logits(**batch))
    assert not torch.equal(back.logits(**batch), model.logits(**batch))


def test_damaged_folder_is_refused(model, tmp_path, monkeypatch):
    catalogue_of_one(monkeypatch, model)
    folder = model.save(tmp_path / "saved")
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(WeightsError, match="damaged"):
        pm.load(folder)


def test_save_spares_other_folders(model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError):
        model.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_seconds_add_up(model, photo):
    reply = model.chat(pm.image(photo), "what?", max_tokens=3)
    assert reply.seconds["decode"] > 0 and reply.seconds["prefill"] > 0 and reply.seconds["generate"] > 0
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())


def test_second_turn_encodes_nothing_again(photo):
    model = pm.load(TINY)
    question = {"role": "user", "content": [pm.image(photo), "what?"]}
    first = model.chat([question], max_tokens=3)
    history = [question, {"role": "assistant", "content": first.text}, {"role": "user", "content": "why?"}]
    second = model.chat(history, max_tokens=3)
    assert first.seconds["encode"] > 0 and second.seconds["encode"] == 0
    assert second.text == pm.load(TINY).chat(history, max_tokens=3).text


def test_streams_side_by_side_do_not_disturb_each_other(model, photo):
    alone = [model.chat(words, max_tokens=6).text for words in ("one", "another")]
    left, right = model.stream("one", max_tokens=6), model.stream("another", max_tokens=6)
    for _ in zip(left, right, strict=False):
        pass
    list_of = [stream._reply.text if stream._reply else None for stream in (left, right)]
    assert all(text in (None, expected) for text, expected in zip(list_of, alone, strict=True))
    assert [model.chat(words, max_tokens=6).text for words in ("one", "another")] == alone


def test_changed_weights_change_the_answer(photo):
    model = pm.load(TINY)
    before = model.chat("what?", max_tokens=4, logprobs=0)
    with torch.no_grad():
        for parameter in model.module.backbone.parameters():
            parameter.copy_(torch.randn_like(parameter))
    after = model.chat("what?", max_tokens=4, logprobs=0)
    batch = model.processor("what?", generate=True)
    assert after.logprobs[0] == pytest.approx(float(model.logits(**batch)[0, -1].log_softmax(-1).max()), abs=1e-4)
    assert after.logprobs != before.logprobs
