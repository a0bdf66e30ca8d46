"""What every data set is, and what one sample of it holds."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from polymodal.data.media import Array, Media
from polymodal.data.messages import Message
from polymodal.errors import ConfigError
from polymodal.files import open_regular

BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample.  messages: a conversation, whose answers are learned; or text, of which every token is; or media
    without a word, as pairs of a picture and its sound; or features, sequences [T, F] by modality.

    labels: what is told beside it, as the data file has it: the name or number of a class, a score, several by name.
    rejected: an answer that is worse than the one that ends `messages`.  arrays: further numbers of a sample by name,
    as a robot's actions.  group: what it shares with others, the picture that several texts tell of.  target: what in
    its text the label is about.  modalities: what is known of one thing by name, as media, words, or as the file has
    it.  name: where it is from, for messages about it: "talks.jsonl:12".
    """

    name: str
    messages: tuple[Message, ...] = ()
    text: str = ""
    media: tuple[Media, ...] = ()
    features: Mapping[str, Array] = field(default_factory=dict)
    labels: Any = None
    rejected: tuple[Message, ...] = ()
    group: str = ""
    target: str = ""
    arrays: Mapping[str, Array] = field(default_factory=dict)
    modalities: Mapping[str, Any] = field(default_factory=dict)


class Dataset(ABC):
    """Samples by number.  Opening one reads where its samples are, not the samples; reading one opens what it names.

    path: the file or folder.  kind: its format in words.  Several processes may read one object at once.
    """

    kind: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Raises PromptError or MediaError, naming the sample, for one that is damaged."""

    def name(self, index: int) -> str:
        """Where a sample is from, for messages about it."""
        return f"{self.path.name}:{index + 1}"

    def files(self) -> Iterable[Path]:
        """The files that the samples are listed in; their contents are what `manifest` hashes."""
        return (self.path,)

    def manifest(self) -> dict[str, Any]:
        """What a run notes about its data: path, kind, samples, bytes and the SHA-256 of its files."""
        digest, size = hashlib.sha256(), 0
        for file in self.files():
            with open_regular(file, error=ConfigError) as opened:
                while block := opened.read(BLOCK):
                    digest.update(block)
                    size += len(block)
        return {
            "path": str(self.path.absolute()),
            "kind": self.kind,
            "samples": len(self),
            "bytes": size,
            "sha256": digest.hexdigest(),
        }
