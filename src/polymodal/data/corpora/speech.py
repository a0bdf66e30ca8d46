"""Recordings carried by Debian packages: spoken picture captions, telephone prompts, read sentences.

`tuxpaint-stamps-default`   captions read aloud in many languages; the text beside them is in the same language
`asterisk-core-sounds-en-wav`   one voice, 8 kHz prompts; NO transcripts, the file name is only a hint
`pocketsphinx-testdata`     five LibriVox sentences and five card calls, 16 kHz, with true transcripts
Key: the normalised English caption (so that picture and recording of one concept share a side), the prompt's file
name, or the transcript.
Traps: whether a voice is synthetic and how many people speak is not stated; the prompts have no truth to score with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from polymodal.data.corpora.record import normalise, split_of
from polymodal.errors import MediaError

_DESCRIPTION = re.compile(r"_desc(?:_([A-Za-z_]+))?$")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording that is not loaded yet.

    text: what is said, or None where no transcript exists.  hint: the file name in words.  language: as the
    package writes it ("en", "fr", "pt_BR").  path: of the sound file, for `data.audio.read_audio`.
    """

    id: str
    corpus: str
    language: str
    key: str
    split: str
    text: str | None
    hint: str
    path: Path


def open_tuxpaint(folder: str | Path, languages: tuple[str, ...] = ("en",)) -> tuple[Recording, ...]:
    """Spoken captions whose text is known in the same language.  Raises MediaError when there are no stamps."""
    root = next(iter(sorted(Path(folder).glob("**/tuxpaint/stamps"))), None)
    if root is None:
        raise MediaError(f"no Tux Paint stamps below {folder}; unpack the package tuxpaint-stamps-default there")
    found = []
    for path in sorted(root.glob("**/*_desc*.ogg")):
        match = _DESCRIPTION.search(path.stem)
        language = (match.group(1) or "en") if match else ""
        captions = read_captions(path.with_name(f"{path.stem[: match.start()]}.txt")) if match else {}
        if language not in languages or language not in captions:
            continue
        key = normalise(captions["en"])
        found.append(
            Recording(
                id=f"tuxpaint/{path.relative_to(root).as_posix()}", corpus="tuxpaint", language=language, key=key,
                split=split_of(key), text=captions[language], hint=_words(path.stem[: match.start()] if match else ""),
                path=path,
            )
        )  # fmt: skip
    return tuple(found)


def read_captions(path: Path) -> dict[str, str]:
    """Language -> caption from a stamp's text file: the first line is English, then `fr.utf8=...` lines."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    captions = {"en": lines[0].strip()} if lines and lines[0].strip() else {}
    for line in lines[1:]:
        language, sign, text = line.partition("=")
        if sign and captions and text.strip():
            captions.setdefault(language.strip().removesuffix(".utf8"), text.strip())
    return captions


def open_asterisk(folder: str | Path) -> tuple[Recording, ...]:
    """English telephone prompts; `text` is always None.  Raises MediaError when there are none."""
    root = next(iter(sorted(Path(folder).glob("**/asterisk/sounds/en*"))), None)
    if root is None:
        raise MediaError(f"no asterisk/sounds/en* below {folder}; unpack asterisk-core-sounds-en-wav there")
    found = []
    for path in sorted(root.glob("**/*.wav")):
        name = path.relative_to(root).with_suffix("").as_posix()
        found.append(
            Recording(
                id=f"asterisk/{name}", corpus="asterisk", language="en", key=name, split=split_of(name), text=None,
                hint=_words(path.stem), path=path,
            )
        )  # fmt: skip
    return tuple(found)


def open_pocketsphinx(folder: str | Path) -> tuple[Recording, ...]:
    """Read sentences with true transcripts, all for testing.  Raises MediaError when there are none."""
    found = []
    for table in sorted(Path(folder).glob("**/pocketsphinx/test/data/*/*transcription")):
        for line in table.read_text(encoding="utf-8").splitlines():
            match = re.fullmatch(r"(?:<s>)?\s*(.*?)\s*(?:</s>)?\s*\((.+)\)", line.strip())
            path = table.parent / f"{match.group(2)}.wav" if match else table
            if match is None or not path.exists():
                continue
            text = re.sub(r"\s+", " ", match.group(1))
            found.append(
                Recording(
                    id=f"pocketsphinx/{table.parent.name}/{path.stem}", corpus="pocketsphinx", language="en",
                    key=normalise(text), split="test", text=text, hint=_words(path.stem), path=path,
                )
            )  # fmt: skip
    if not found:
        raise MediaError(f"no transcripts below {folder}; unpack the package pocketsphinx-testdata there")
    return tuple(found)


def _words(stem: str) -> str:
    return normalise(stem.replace("-", " "))
