"""Recordings as words of a conversation, and pictures beside sentences, with stand-ins for the networks."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from polymodal.data.media import Audio, Image, Text
from polymodal.data.messages import conversation, user
from polymodal.errors import ConfigError, PromptError
from polymodal.pipelines import speech_as_text as hearing
from polymodal.pipelines.speech_as_text import SpeechAsText, quoted
from polymodal.pipelines.transcription.transcribe import TranscribeOptions, Transcript, Window
from polymodal.systems.mini.sentence_space import SentenceSpace


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> tuple[SpeechAsText, list[str]]:
    """A SpeechAsText whose Whisper says how many samples it was given; the list notes what was done."""
    done: list[str] = []

    def model_spec() -> tuple[str, str]:
        done.append("open")
        return "model", "tokenizer"

    class Transcription:
        def __init__(self, model: str, tokenizer: str, audio: Audio, options: TranscribeOptions) -> None:
            self.count = len(audio.samples(16000))
            done.append(f"listen {self.count}")

        def windows(self) -> Iterator[Window]:
            seconds = self.count / 16000
            yield Window(text=f" {self.count}", segments=(), until=seconds / 2, seconds=seconds)
            yield Window(text=" samples", segments=(), until=seconds, seconds=seconds)

        def transcript(self, windows: Iterable[Window]) -> Transcript:
            text = "".join(window.text for window in windows).strip()
            return Transcript(text=text, segments=(), language="en", seconds=self.count / 16000)

    monkeypatch.setattr(hearing, "Transcription", Transcription)
    return SpeechAsText(model_spec), done


def recording(count: int) -> Audio:
    return Audio((np.full(count, 0.1, np.float32), 16000))


def test_a_recording_alone_is_the_question_and_one_beside_words_is_quoted(
    heard: tuple[SpeechAsText, list[str]],
) -> None:
    hear, _ = heard
    alone = hear.rewrite((user(recording(1600)),))
    assert alone[0].parts == (Text("1600 samples"),)
    picture = Image(b"not opened")
    beside = hear.rewrite((user(picture, recording(1600), "What is said?"),))
    assert beside[0].parts == (picture, Text(quoted("1600 samples")), Text("What is said?"))
    assert hear.rewrite((user(picture, recording(1600), " "),))[0].parts[1] == Text("1600 samples")


def test_whisper_is_opened_once_and_equal_samples_are_heard_once(heard: tuple[SpeechAsText, list[str]]) -> None:
    hear, done = heard
    typed = conversation("no sound here")
    assert hear.rewrite(typed) == typed and done == []
    hear.rewrite((user(recording(1600)), user(recording(1600)), user(recording(3200))))
    hear.text(recording(3200))
    assert done == ["open", "listen 1600", "listen 3200"]


def test_windows_come_one_by_one_and_a_transcript_that_was_given_up_is_not_kept(
    heard: tuple[SpeechAsText, list[str]],
) -> None:
    hear, done = heard
    windows = hear.windows(recording(1600))
    assert next(windows).text == " 1600"
    windows.close()
    assert [window.text for window in hear.windows(recording(1600))] == [" 1600", " samples"]
    assert done.count("listen 1600") == 2
    (known,) = hear.windows(recording(1600))
    assert (known.text, known.until, done.count("listen 1600")) == ("1600 samples", 0.1, 2)


class Space(torch.nn.Module):
    """A connector stand-in: the vector is the mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Parameter(torch.tensor([2.0, 0.0, 0.0]))

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        return F.normalize(features.mean((2, 3)), dim=-1)


def colours(texts: list[str]) -> torch.Tensor:
    return torch.stack([torch.eye(3)[["red", "green", "blue"].index(text)] for text in texts])


@pytest.fixture
def space() -> SentenceSpace:
    def transform(image: Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image.picture, np.float32)).permute(2, 0, 1)

    return SentenceSpace(torch.nn.Identity(), Space(), transform, colours)


def test_pictures_and_sentences_lie_in_one_space(space: SentenceSpace) -> None:
    from PIL import Image as Pillow

    blue = Image(Pillow.new("RGB", (4, 4), (10, 0, 200)))
    found = space.embed([blue, "red", Text("blue")])
    assert found.shape == (3, 3) and torch.allclose(found.norm(dim=-1), torch.ones(3))
    assert found[0] @ found[2] > 0.99 > found[0] @ found[1]
    (chances,) = space.score([blue], ["red", "blue"])
    assert chances.sum().item() == pytest.approx(1) and chances.argmax() == 1
    expected = (found[0] @ colours(["red", "blue"]).T * np.exp(2.0)).softmax(0)
    assert torch.allclose(chances, expected, atol=1e-6)


def test_what_cannot_be_compared_is_refused(space: SentenceSpace) -> None:
    with pytest.raises(PromptError, match="embeds pictures and text; found audio"):
        space.embed([recording(16)])
    with pytest.raises(ConfigError, match="expected at least one item"):
        space.embed([])
    with pytest.raises(ConfigError, match="at least one label"):
        space.score(["red"], [])
