"""Recordings carried by Debian packages and a repository: spoken captions, telephone prompts, orders, read sentences.

`tuxpaint-stamps-default`   captions read aloud in many languages; the text beside them is in the same language
`asterisk-core-sounds-en-wav`   one voice, 8 kHz prompts; their texts are a file of upstream's, not of the package
`pocketsphinx-testdata`     five LibriVox sentences and five card calls, 16 kHz, with true transcripts
`Picovoice/speech-to-intent-benchmark`   619 coffee orders of many speakers; no transcripts, but the terms they name
Key: the normalised English caption (so that picture and recording of one concept share a side), the prompt's file
name or text, the terms of an order, or the transcript.
Traps: whether a voice is synthetic and how many people speak is not stated.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from polymodal.data.sets.split import normalise, split_of
from polymodal.data.sets.tuxpaint import read_captions
from polymodal.errors import MediaError

_DESCRIPTION = re.compile(r"_desc(?:_([A-Za-z_]+))?$")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording that is not loaded yet.

    text: what is said, or None where no transcript exists.  hint: the file name, or the terms named, in words.
    language: as the package writes it ("en", "fr", "pt_BR").  path: of the sound file, for `data.audio.read_audio`.
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


def open_asterisk(folder: str | Path, transcripts: str | Path | None = None) -> tuple[Recording, ...]:
    """English telephone prompts; `text` is None without `transcripts`, upstream's core-sounds-en.txt (`name: text`).

    Prompts without words (tones, silence) are left out when texts are given.  Raises MediaError when there are none.
    """
    root = next(iter(sorted(Path(folder).glob("**/asterisk/sounds/en*"))), None)
    if root is None:
        raise MediaError(f"no asterisk/sounds/en* below {folder}; unpack asterisk-core-sounds-en-wav there")
    texts = {} if transcripts is None else _prompt_texts(Path(transcripts))
    found = []
    for path in sorted(root.glob("**/*.wav")):
        name = path.relative_to(root).with_suffix("").as_posix()
        if transcripts is not None and name not in texts:
            continue
        key = normalise(texts[name]) if name in texts else name
        found.append(
            Recording(
                id=f"asterisk/{name}", corpus="asterisk", language="en", key=key, split=split_of(key),
                text=texts.get(name), hint=_words(path.stem), path=path,
            )
        )  # fmt: skip
    return tuple(found)


def _prompt_texts(path: Path) -> dict[str, str]:
    """Prompt -> what it says, for prompts that say something."""
    texts = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, sign, text = line.partition(":")
        text = re.sub(r"\s+", " ", re.sub(r"\[.*?\]|\.\.\.", " ", text)).strip()
        if sign and not line.startswith(";") and text and not text.startswith("("):
            texts[name.strip().removesuffix(".wav")] = text
    return texts


def picovoice_labels(folder: str | Path) -> tuple[Path, dict[str, dict]]:
    """The folder of recordings, and what is ordered in each, by file name.  Raises MediaError when there are none."""
    table = next(iter(sorted(Path(folder).glob("**/data/label/label.json"))), None)
    if table is None:
        raise MediaError(f"no data/label/label.json below {folder}; unpack speech-to-intent-benchmark there")
    return table.parent.parent / "speech" / "clean", json.loads(table.read_text(encoding="utf-8"))


def open_picovoice(folder: str | Path) -> tuple[Recording, ...]:
    """Coffee orders by many speakers, `hint` the terms that each names.  Raises MediaError when there are none."""
    sounds, labels = picovoice_labels(folder)
    found = []
    for name, label in sorted(labels.items()):
        terms = normalise(" ".join(label["slots"].values()))
        path = sounds / name
        if not path.exists():  # some labels have no recording
            continue
        found.append(
            Recording(
                id=f"picovoice/{path.stem}", corpus="picovoice", language="en", key=terms, split=split_of(terms),
                text=None, hint=terms, path=path,
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
