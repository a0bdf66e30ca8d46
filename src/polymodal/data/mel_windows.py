"""The log-mel of a recording of any length, a window at a time, in memory that does not grow with the length.

    blocks of samples -> reflected edge in front, silence behind -> frames of log power, a second at a time
        first pass: the loudest value and the number of samples     second pass: the frames of each window, in order

Equal to `mel.log_mel` of the whole recording followed by silence.
Trap: the loudest value of the whole recording sets the floor of every window, so the recording is read twice.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from polymodal.data.mel import MelConfig, log_power, normalise_log_power


class MelWindows:
    """blocks: called once for each pass, gives mono float32 blocks [n] at `config.rate`.

    samples: of the recording.  frames: samples // hop.
    """

    def __init__(self, blocks: Callable[[], Iterable[np.ndarray]], config: MelConfig) -> None:
        self._blocks, self._config = blocks, config
        self.samples, self._peak = 0, -float("inf")
        self._loudest: list[float] = []  # amplitude of each second
        for logs in log_power_blocks(self._counted(), config):
            self._peak = max(self._peak, float(logs.amax()))
        self.frames = self.samples // config.hop
        self._restart()

    def _counted(self) -> Iterator[np.ndarray]:
        rate = self._config.rate
        for block in self._blocks():
            end = self.samples + len(block)
            for second in range(self.samples // rate, -(-end // rate)):
                piece = block[max(0, second * rate - self.samples) : (second + 1) * rate - self.samples]
                self._loudest += [0.0] * (second + 1 - len(self._loudest))
                self._loudest[second] = max(self._loudest[second], float(np.abs(piece).max(initial=0.0)))
            self.samples = end
            yield block

    def loudest(self, seek: int, frames: int) -> float:
        """The amplitude of the loudest sample in the seconds that these frames touch."""
        begin, end = (frame * self._config.hop / self._config.rate for frame in (seek, seek + frames))
        return max(self._loudest[int(begin) : math.ceil(end)], default=0.0)

    def _restart(self) -> None:
        self._source = log_power_blocks(self._blocks(), self._config)
        self._start, self._held = 0, torch.zeros(self._config.mels, 0)

    def window(self, seek: int, frames: int) -> Tensor:
        """The frames from `seek` on, float32 [mels, at most `frames`]; going back reads the recording again."""
        if seek < self._start:
            self._restart()
        end = min(seek + frames, self.frames)
        while self._start + self._held.shape[1] < end:
            drop = min(max(0, seek - self._start), self._held.shape[1])
            self._start += drop
            self._held = torch.cat((self._held[:, drop:], next(self._source)), 1)
        logs = self._held[:, seek - self._start : end - self._start]
        return normalise_log_power(logs, self._peak)


def log_power_blocks(blocks: Iterable[np.ndarray], config: MelConfig) -> Iterator[Tensor]:
    """log10 of the mel power of consecutive frames, float32 [mels, n] each: those of the recording and of its fading.

    Frames are centred as `log_mel` centres them.
    """
    half, hop = config.window // 2, config.hop
    held = np.zeros(0, np.float32)  # samples from the beginning of the next frame on
    has_begun = False
    for block, is_last in _seconds(blocks, config):
        held = np.concatenate((held, block))
        if not has_begun:
            held, has_begun = np.concatenate((held[half:0:-1], held)), True
        count = (len(held) - config.window) // hop + 1
        if count > 0 and (count * hop >= config.rate or is_last):
            yield log_power(torch.from_numpy(held[: (count - 1) * hop + config.window]), config, center=False)
            held = held[count * hop :]


def _seconds(blocks: Iterable[np.ndarray], config: MelConfig) -> Iterator[tuple[np.ndarray, bool]]:
    """The samples in pieces of one to about thirty seconds, and at last two windows of silence."""
    pieces: list[np.ndarray] = []
    for block in blocks:
        for start in range(0, len(block), 30 * config.rate):
            pieces.append(block[start : start + 30 * config.rate])
            if sum(map(len, pieces)) >= config.rate:
                yield np.concatenate(pieces), False
                pieces = []
    yield np.concatenate((*pieces, np.zeros(2 * config.window, np.float32))), True
