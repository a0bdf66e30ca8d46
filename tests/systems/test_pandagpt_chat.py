"""PandaGPT as a user meets it: words byte for byte, labels, chat and `ask` on real media, senses given as tensors."""

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import polymodal as pm
from polymodal.check import imagebind_lm, randomise
from polymodal.cli.app import app
from polymodal.data.imagebind_formats import PandaGPTFormat
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.processor import HOST_FACTS
from polymodal.data.template import TEXT_START, Special, Words
from polymodal.errors import PromptError
from polymodal.systems.pandagpt import PLACEHOLDER, SYSTEM

EXAMPLES = Path(__file__).parents[2] / "examples"
CAT, SPEECH = EXAMPLES / "cat.jpg", EXAMPLES / "speech.flac"
TALK = ("What is it?", "A cat.", "Sure?", "Yes.", "Why?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pandagpt")
    imagebind_lm.write_tiny_folder(place, SYSTEM)
    return place


def messages(*texts: str) -> list[Message]:
    return [Message(role=("user", "assistant")[i % 2], parts=(Text(text),)) for i, text in enumerate(texts)]


def test_words_are_those_of_the_paper_code() -> None:
    rendered = PandaGPTFormat(begin="<s>").render(messages(*TALK), ask=True)
    pieces = [piece for piece in rendered if piece is not TEXT_START]
    assert [piece.name if isinstance(piece, Special) else piece.text for piece in pieces] == [
        "<s>", "### Human: <Img>", "all media", "</Img> What is it?\n### Assistant:", "A cat.\n###",
        "Human: Sure?\n### Assistant:", "Yes.\n###", "Human: Why?\n### Assistant:",
    ]  # fmt: skip
    assert [piece.text for piece in pieces if isinstance(piece, Words) and piece.loss_mask] == [
        "A cat.\n###",
        "Yes.\n###",
    ]
    for wrong in (messages("a", "b"), []):
        with pytest.raises(PromptError):
            PandaGPTFormat(begin="<s>").render(wrong, ask=True)


def test_labels_are_the_answers_alone(folder: Path) -> None:
    processor = pm.load(folder).processor
    talk = messages(*TALK[:4])
    talk[0] = Message(role="user", parts=(pm.image(CAT), Text(TALK[0])))
    batch = processor([talk, talk[:2]])
    assert set(batch) >= {"vision", "labels"} and batch["vision"].shape == (2, 3, 224, 224)
    for row, words in ((0, "A cat.\n###Yes.\n###"), (1, "A cat.\n###")):
        ids, labels = batch["input_ids"][row], batch["labels"][row]
        learned = labels >= 0
        assert torch.equal(ids[learned], labels[learned])
        assert processor.tokenizer.decode(labels[learned].tolist()) == words
        assert int((ids == PLACEHOLDER).sum()) == 1


def test_a_picture_a_sound_and_both_are_asked_about(folder: Path) -> None:
    model = pm.load(folder)
    image, sound = pm.image(CAT), pm.audio(SPEECH)
    for content in ((image,), (sound,), (sound, image)):
        reply = model.chat(*content, "What is it?", max_tokens=4)
        asked = model.processor([Message(role="user", parts=(*content, Text("What is it?")))], generate=True)
        assert int((asked["input_ids"] == PLACEHOLDER).sum()) == 1
        ids = model.generate(**asked, max_new_tokens=4, eos_token_id=None)
        said = model.processor.tokenizer.decode(ids[0, asked["input_ids"].shape[1] :].tolist())
        assert reply.text == said.partition("###")[0]
    with pytest.raises(PromptError, match="one item of each kind"):
        model.chat(image, image, "What is it?")
    with pytest.raises(PromptError, match="found none"):  # as the published demo, which asks for a file
        model.chat("What is it?")
    assert model.logits(input_ids=torch.tensor([[0, 5, 6]])).shape[:2] == (1, 3)  # no place, nothing to see


def test_a_video_is_asked_about_beside_a_sound(folder: Path, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "film.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(20):
            picture = np.full((48, 64, 3), 12 * index, dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    model = pm.load(folder)
    reply = model.chat(pm.video(tmp_path / "film.mp4"), pm.audio(SPEECH), "What is it?", max_tokens=2)
    assert reply.tokens["video"] == 1 and reply.tokens["generated"] == 2


def test_rows_may_see_or_hear(folder: Path) -> None:
    model = pm.load(folder)
    rows = [[Message(role="user", parts=(item, Text("What is it?")))] for item in (pm.image(CAT), pm.audio(SPEECH))]
    rows.append([Message(role="user", parts=(pm.audio(SPEECH), pm.image(CAT), Text("What is it?")))])
    together = model.logits(**model.processor(rows, generate=True))
    for row, talk in enumerate(rows):
        alone = model.logits(**model.processor([talk], generate=True))
        torch.testing.assert_close(together[row, -alone.shape[1] :], alone[0], atol=1e-4, rtol=0)


def test_conversations_of_a_batch_may_see_or_hear(folder: Path, monkeypatch) -> None:
    model = pm.load(folder)
    cat, speech = pm.image(CAT), pm.audio(SPEECH)
    asked = [(cat, "What is it?"), (speech, "And this one here?"), (speech, cat, "Both?")]
    alone = [model.chat(*each, max_tokens=6).text for each in asked]
    assert [each.text for each in model.chat_batch(asked, max_tokens=6)] == alone
    # Both senses stand at one place, so a second turn finds all of it again.
    talk = [{"role": "user", "content": [speech, cat, "Both?"]}, {"role": "assistant", "content": alone[2] or "x"},
            {"role": "user", "content": "Sure?"}]  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(model.module, "encode", lambda *_: pytest.fail("encoded again"))
        used = model.chat(talk, max_tokens=6)
    assert used.text == pm.load(folder).chat(talk, max_tokens=6).text


def test_senses_without_files_are_given_by_name(folder: Path) -> None:
    model = pm.load(folder)
    asked = model.processor(messages("What is it?"), generate=True)
    asked = {name: value for name, value in asked.items() if name not in HOST_FACTS | {"labels"}}
    seen = [model.logits(**asked, **{name: randomise.values(name, shape)}) for name, shape in
            (("thermal", (1, 1, 224, 224)), ("depth", (1, 1, 224, 224)), ("imu", (1, 6, 2000)))]  # fmt: skip
    assert all(float((one - other).abs().max()) > 1e-3 for one, other in pairwise(seen))


def test_heat_depth_and_motion_are_asked_about_as_pictures_and_sounds_are(folder: Path) -> None:
    model = pm.load(folder)
    moves = np.random.default_rng(0).normal(size=(6, 300)).tolist()
    items = (pm.image(CAT), pm.image(CAT, "thermal"), pm.image(CAT, "depth"), pm.array(moves, "imu"))
    seen = [model.logits(**model.processor([Message(role="user", parts=(item, Text("Hm?")))])) for item in items]
    assert all(float((one - other).abs().max()) > 1e-4 for one, other in pairwise(seen))
    both = [{"type": "thermal", "thermal": str(CAT)}, {"type": "imu", "imu": moves}, "Hm?"]
    reply = model.chat([{"role": "user", "content": both}], max_tokens=3)
    assert reply.tokens["generated"] == 3
    with pytest.raises(PromptError, match="cannot read point_cloud; it takes text, image, video, audio"):
        model.chat(pm.array(moves, "point_cloud"), "Hm?")


def test_the_command_asks(folder: Path) -> None:
    result = CliRunner().invoke(app, ["ask", str(CAT), "What is it?", "--model", str(folder), "--max-tokens", "3",
                                      "--json"])  # fmt: skip
    assert result.exit_code == 0 and '"image": 1' in result.stdout
