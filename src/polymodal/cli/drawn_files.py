"""What `draw` writes: which file holds which kind of media, and what is told of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
KINDS = {**dict.fromkeys(PICTURES, "image"), ".wav": "audio", ".flac": "audio", ".mp4": "video", ".txt": "text"}
RATE = 16_000  # of sounds that are written


def kind_of(out: Path) -> str:
    """The modality of a file by its name.  Raises ConfigError for a name that nothing is written under."""
    from polymodal.errors import ConfigError

    kind = KINDS.get(out.suffix.lower())
    if kind is None:
        raise ConfigError(f"--out {out}: expected a name ending in {', '.join(KINDS)}")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    return kind


def wanted(out: Path, kind: str, makes: Sequence[str], name: str) -> tuple[str, ...]:
    """What is made for a file: a video with its sound, where there is one.  Raises ConfigError, before anything is."""
    from polymodal.errors import ConfigError

    if kind not in makes:
        ends = ", ".join(ending for ending, each in KINDS.items() if each in makes)
        raise ConfigError(f"--out {out}: {name} makes {', '.join(makes)}, not {kind}; expected a name ending in {ends}")
    return ("video", "audio") if kind == "video" and "audio" in makes else (kind,)


def write(made: Sequence[Any], out: Path, kind: str) -> list[Path]:
    """One file of each; of several with a number in each name.  Raises ConfigError."""
    from polymodal.errors import ConfigError

    several = len(made) > 1
    files = [out.with_stem(f"{out.stem}-{number}") if several else out for number in range(1, len(made) + 1)]
    for file, each in zip(files, made, strict=True):
        try:
            if kind == "image":
                each.save(file, PICTURES[out.suffix.lower()])
            else:
                file.write_bytes(encoded(each, out, kind))
        except OSError as problem:
            raise ConfigError(f"cannot write {file}: {problem.strerror or problem}") from problem
    return files


def encoded(made: Any, out: Path, kind: str) -> bytes:
    """The bytes of a sound, a video or a text."""
    from polymodal.data.audio_writing import encode_sound

    if kind == "text":
        return f"{made}\n".encode()
    if kind == "video":
        found: bytes = made.mp4()
        return found
    return encode_sound(made.samples(RATE), RATE, out.suffix.lower()[1:])


def told(file: Path, made: Any, kind: str) -> dict[str, Any]:
    """What `--json` says of a file, with stable keys."""
    if kind == "image":
        return {"file": str(file), "width": made.width, "height": made.height}
    if kind == "text":
        return {"file": str(file), "text": made}
    if kind == "audio":
        return {"file": str(file), "seconds": round(len(made.samples(RATE)) / RATE, 3)}
    frames, height, width = made.frames.shape[:3]
    size = {"width": width, "height": height, "frames": frames, "seconds": round(made.seconds, 3)}
    return {"file": str(file), **size, "sound": made.sound is not None}


def line(entry: dict[str, Any], kind: str) -> str:
    """The same in words."""
    if kind == "image":
        return f"{entry['width']} x {entry['height']} pixels"
    if kind == "text":
        return f"{len(entry['text'].split())} words"
    if kind == "audio":
        return f"{entry['seconds']:g} s of sound"
    sound = " with sound" if entry["sound"] else ""
    return f"{entry['frames']} frames of {entry['width']} x {entry['height']} pixels{sound}"
