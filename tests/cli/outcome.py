"""What a command line did, and what counts as a well-told mistake."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def is_one_line(outcome: Outcome) -> bool:
    """A user's mistake: exit code 2, one line on stderr, nothing on stdout, no trace."""
    lines = outcome.err.strip().splitlines()
    return (
        outcome.code == 2
        and len(lines) == 1
        and lines[0].startswith("polymodal: ")
        and outcome.out == ""
        and "Traceback" not in outcome.err
    )
