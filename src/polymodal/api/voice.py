"""`pm.voice`: text to speech.

voice = pm.voice()                      # or pm.voice("bf_emma"); the weights are fetched once (177 MB)
voice.say("Hello.").save("hello.wav")
for part in voice.stream(long_text): ...    # a few sentences at a time, each a Speech
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from polymodal.api.paths import as_path
from polymodal.data.audio_writing import encode_sound
from polymodal.errors import ConfigError, PromptError
from polymodal.pipelines.speaking.kokoro import RATE
from polymodal.pipelines.speaking.kokoro_files import LICENSE, VOICE_FILES
from polymodal.pipelines.speaking.speaker import Speaker
from polymodal.systems import unknown
from polymodal.weights.network import Progress

DEFAULT = "af_heart"


@dataclass(frozen=True, kw_only=True, eq=False)
class Speech:
    """samples: float32 [N] in [-1, 1], `rate` a second.  text: what is said."""

    samples: np.ndarray
    rate: int
    text: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def encode(self, format: str = "wav") -> bytes:
        """A sound file: wav, flac, mp3, opus, aac (or pcm, 16-bit samples alone).  Raises ConfigError."""
        return encode_sound(self.samples, self.rate, format)

    def save(self, path: str | Path) -> None:
        """Write a sound file whose name says which: .wav, .flac, .mp3, .opus, .aac.  Raises ConfigError."""
        target = as_path(path, "save")
        data = self.encode(target.suffix.lower().removeprefix(".") or "wav")
        try:
            target.write_bytes(data)
        except OSError as problem:
            raise ConfigError(f"cannot write {target}: {problem.strerror}") from problem


class Voice:
    """A voice that speaks; made by `pm.voice`.  name: which of `names`.  license: of the weights."""

    names = tuple(VOICE_FILES)
    license = LICENSE

    def __init__(self, name: str, speaker: Speaker) -> None:
        self.name, self._speaker = self.checked(name), speaker

    @classmethod
    def checked(cls, name: str) -> str:
        """The name of a voice that is there.  Raises UnknownName."""
        if name not in cls.names:
            raise unknown("voice", name, cls.names)
        return name

    def __repr__(self) -> str:
        return f"Voice({self.name})"

    def say(self, text: str, *, speed: float = 1.0) -> Speech:
        """A text of any length as speech; speed: 0.25 to 4.  Raises PromptError for one that cannot be spoken."""
        parts = list(self.stream(text, speed=speed))
        return Speech(samples=np.concatenate([part.samples for part in parts]), rate=RATE, text=text)

    def stream(self, text: str, *, speed: float = 1.0) -> Iterator[Speech]:
        """The same a few sentences at a time, each part as soon as it is there."""
        if not isinstance(text, str):
            raise PromptError(f"expected a text to say, found {type(text).__name__}")
        for words, samples in self._speaker.stream(text, self.name, speed):
            yield Speech(samples=samples, rate=RATE, text=words)


def voice(name: str = DEFAULT, *, progress: Progress | None = None, offline: bool = False) -> Voice:
    """A voice by its name, one of `pm.Voice.names`; its weights are fetched where they are not here.

    Raises UnknownName, WeightsError, ConfigError where onnxruntime or eSpeak NG is not installed.
    """
    Voice.checked(name)
    return Voice(name, Speaker.open(threads=torch.get_num_threads(), progress=progress, offline=offline))
