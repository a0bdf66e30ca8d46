"""What ends an answer beside its end token: stop strings, and a loop.

Stop strings are found across token borders and no part of one is ever shown.

Flow: pieces of text -> held-back tail + piece -> text that is certain, until a stop string is complete.
The first stop string to END wins; where several end together, the one that begins first.  So the result depends
on the text alone, not on how it was cut into pieces.
"""

from collections.abc import Callable, Sequence

from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError


def stop_finder(stop: Sequence[str], tokenizer: Tokenizer | None) -> Callable[[Sequence[int]], bool]:
    """ids of an answer -> whether its text holds a stop string, for searches that keep many answers at once.

    Raises ConfigError without a tokenizer.
    """
    if tokenizer is None:
        raise ConfigError("generate: stop strings need a tokenizer to find them in text")

    def holds(ids: Sequence[int]) -> bool:
        text = tokenizer.decode(list(ids))
        return any(each in text for each in stop)

    return holds


class StopStrings:
    """Scanner for one answer. `found` is the stop string that ended it, or None."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._pending = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """Text that may be shown after `piece`; the tail that could become a stop string is held back."""
        text = self._pending + piece
        matches = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stop if stop in text]
        if matches:
            end, _, self.found = min(matches)
            self._pending = ""
            return text[: end - len(self.found)]
        keep = self._tail(text)
        self._pending = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The held-back tail, when the answer ended without a stop string."""
        pending, self._pending = self._pending, ""
        return pending

    def _tail(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[len(text) - size :]) for stop in self._stop):
                return size
        return 0


class Loop:
    """Finds the loop that an answer has run into; small models decode greedily into one, up to the limit of tokens.

    A loop is a cycle of at most LONGEST tokens that stands at least REPEATED times in a row at the end of the answer
    and fills its last `tokens` tokens, or more.  A repetition that was asked for ("write the word cat 50 times") is the
    same thing until it ends, so it is left alone while it is shorter than `tokens`: with 128, fifty times a word of two
    tokens, or a sentence of ten tokens twelve times.  What changes while it repeats (numbered lines) is no cycle.
    """

    LONGEST, REPEATED = 128, 4

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._runs = [0] * (self.LONGEST + 1)  # for each length of a cycle: tokens in a row that equal those before

    def found(self, ids: Sequence[int]) -> bool:
        """Whether `ids` end in a loop; called with each new id, the last one."""
        last, runs = ids[-1], self._runs
        for size in range(1, min(self.LONGEST, len(ids) - 1) + 1):
            runs[size] = runs[size] + 1 if ids[-1 - size] == last else 0
        return any(run and run + size >= max(self.tokens, self.REPEATED * size) for size, run in enumerate(runs))
