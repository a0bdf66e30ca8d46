"""Recordings enter a text conversation as units, and come out of it again: a codec of speech in words like `<661>`.

    recording -> samples at 16 kHz -> HuBERT, a layer inside -> nearest of K centroids -> repetitions merged
              -> "<sosp><661><588>...<eosp>" in the text of its message
    "<sosp><661>...<eosp>" in an answer -> unit vocoder with durations -> samples

HuBERT and the vocoder are opened when the first recording or spoken answer comes, and stay on the CPU in float32: units
are a choice of the nearest, which lower precision changes.  Units are cached by content, so that a later turn does not
hear a recording again.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.data.media import Audio, Text
from polymodal.data.messages import Message
from polymodal.encoders.hubert import RATE, Hubert, merged, units_of
from polymodal.errors import MediaError
from polymodal.generators.unit_vocoder import UnitVocoder
from polymodal.pipelines.transcription.transcribe import SILENCE

BEGIN, END = "<sosp>", "<eosp>"
MOST = 1_600_000  # samples that the published code hears at once
KEPT = 256  # recordings whose units are remembered
UNIT = re.compile(r"<(\d+)>")
Ears = tuple[Hubert, Tensor]
"""HuBERT, and the centroids [K, D] of its features"""


@dataclass(frozen=True, kw_only=True)
class UnitForm:
    """How a model has its units.  begin, end: around those of a recording.  merged: without repetitions side by side,
    so that the vocoder says how long each lasts.  every: features for one unit, the first of them is taken."""

    begin: str = BEGIN
    end: str = END
    merged: bool = True
    every: int = 1

    def written(self, units: Sequence[int]) -> str:
        """Units as text."""
        return self.begin + "".join(f"<{unit}>" for unit in units) + self.end


MERGED = UnitForm()


def read(text: str) -> list[int]:
    """The units that a text names, in order."""
    return [int(unit) for unit in UNIT.findall(text)]


class SpeechUnits:
    """open_ears() -> HuBERT and its centroids [K, D]; open_voice() -> the vocoder; each called once.

    Raises ConfigError or WeightsError, as they do, when something is to be heard or spoken.
    """

    def __init__(
        self, *, open_ears: Callable[[], Ears], open_voice: Callable[[], UnitVocoder], form: UnitForm = MERGED
    ) -> None:
        self.open_ears, self.open_voice, self.form = open_ears, open_voice, form
        self._kept: dict[str, list[int]] = {}
        self._parts: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        """For the workers of a DataLoader, which open the files anew."""
        return partial(SpeechUnits, open_ears=self.open_ears, open_voice=self.open_voice, form=self.form), ()

    def hear(self, recording: Audio) -> list[int]:
        """The units.  Raises MediaError for a recording that is silent, too short or too long."""
        key = recording.content_hash(RATE)
        if key not in self._kept:
            self._kept[key] = self._heard(heard_samples(recording))
            while len(self._kept) > KEPT:
                self._kept.pop(next(iter(self._kept)), None)
        return self._kept[key]

    def _heard(self, samples: np.ndarray) -> list[int]:
        encoder, centroids = self._once("ears", self.open_ears)
        with torch.inference_mode():
            features = encoder(torch.from_numpy(samples)[None])[:, :: self.form.every]
            units = units_of(features, centroids)[0].tolist()
        return merged(units) if self.form.merged else units

    def speak(self, units: Sequence[int]) -> tuple[np.ndarray, int]:
        """Samples float32 [n] of units, and their rate.  Raises PromptError for units that there are not."""
        vocoder = self._once("voice", self.open_voice)
        with torch.inference_mode():
            samples = vocoder(torch.tensor([list(units)], dtype=torch.int64), merged=self.form.merged)
        return samples[0].numpy(), vocoder.config.sampling_rate

    def rewrite(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The conversation with every recording written as its units."""
        return tuple(self._message(m) if any(isinstance(p, Audio) for p in m.parts) else m for m in messages)

    def _message(self, message: Message) -> Message:
        parts = [
            Text(self.form.written(self.hear(part))) if isinstance(part, Audio) else part for part in message.parts
        ]
        return replace(message, parts=tuple(parts))

    def _once(self, name: str, open: Callable[[], Any]) -> Any:
        with self._lock:
            if name not in self._parts:
                self._parts[name] = open()
            return self._parts[name]


def heard_samples(recording: Audio) -> np.ndarray:
    """Mono samples float32 [n] at 16 kHz.  Raises MediaError for silence and for more than 1,600,000 of them."""
    count = sum(map(len, recording.blocks(RATE)))  # a long recording is never held as a whole
    if count > MOST:
        raise MediaError(
            f"{recording!r}: {count:,} samples at 16 kHz ({count / RATE:.0f} s); at most {MOST:,} ({MOST // RATE} s) "
            "are heard at once; cut the recording"
        )
    samples = recording.samples(RATE)
    if not count or float(np.abs(samples).max()) <= SILENCE:
        raise MediaError(f"{recording!r}: it is silent ({count / RATE:.2f} s); a recording of speech is expected")
    return samples
