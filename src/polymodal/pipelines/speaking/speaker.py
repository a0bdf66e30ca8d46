"""Kokoro with all its voices: a text becomes speech, a few sentences at a time.

speaker = Speaker.open(threads=2)
for words, samples in speaker.stream("Hello.", "af_heart", 1.0): ...
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from polymodal.errors import PromptError
from polymodal.pipelines.speaking.espeak import ipa as in_this_process
from polymodal.pipelines.speaking.kokoro import Session, check_speed, open_session, read_voice, samples
from polymodal.pipelines.speaking.kokoro_files import MODEL, VOICE_FILES
from polymodal.pipelines.speaking.phonemes import Ipa, pieces
from polymodal.weights.fetch import fetch, fetch_all
from polymodal.weights.network import Progress


class Speaker:
    """ipa: what gives the sounds of a clause (eSpeak NG in this process unless told otherwise).

    Several threads may use it.
    """

    def __init__(self, session: Session, ipa: Ipa = in_this_process) -> None:
        self._session, self._ipa = session, ipa
        self._styles: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, *, threads: int, ipa: Ipa = in_this_process, progress: Progress | None = None, offline: bool = False
    ) -> Speaker:
        """With the published weights, fetched where they are not here.  Raises ConfigError, WeightsError."""
        pull_voices(progress, offline)
        return cls(open_session(fetch(MODEL, offline=True), threads), ipa)

    def stream(self, text: str, voice: str, speed: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
        """Words and their samples (float32 [N], kokoro.RATE a second), a few sentences at a time.

        voice: a key of VOICE_FILES.  Raises ConfigError, PromptError for a text without a word that can be spoken.
        """
        check_speed(speed)
        style, spoken = self._style(voice), False
        for words, symbols in pieces(text, voice[0], self._ipa):
            spoken = True
            yield words, samples(self._session, symbols, style, speed)
        if not spoken:
            raise PromptError("the text holds no word that can be spoken")

    def _style(self, voice: str) -> np.ndarray:
        with self._lock:
            if voice not in self._styles:
                self._styles[voice] = read_voice(fetch(VOICE_FILES[voice], offline=True))
            return self._styles[voice]


def pull_voices(progress: Progress | None = None, offline: bool = False) -> list[Path]:
    """The files of Kokoro and its voices, fetched where they are not here."""
    return [fetch(MODEL, progress, offline), *fetch_all(VOICE_FILES.values(), progress, offline)]
