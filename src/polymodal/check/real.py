"""Real pictures with their names, and real speech, for training checks at tiny size.

    npm @lobehub/fluent-emoji-3d (3D drawings, MIT) + npm cldr-annotations-full (names, Unicode-3.0) -> picture, name
    examples/speech.flac (LibriVox, public domain) -> samples; only where the repository is here

Nothing is fetched here: `fetch` does that, once; without it `MissingData` says how.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image as images
from PIL.Image import Image
from torch import Tensor

from polymodal.check.record import MissingData
from polymodal.weights import npm
from polymodal.weights.cache import home, staged
from polymodal.weights.source import Source

PICTURES = Source(kind="npm", name="@lobehub/fluent-emoji-3d", revision="1.1.0", file="package.json", license="MIT",
                  size=15_800_000)  # fmt: skip
NAMES = Source(kind="npm", name="cldr-annotations-full", revision="48.2.0",
               file="annotations/en/annotations.json", license="Unicode-3.0", size=6_500_000)  # fmt: skip
COUNT = 96
SIDE = 128  # pixels a side, as kept
SPEECH = Path(__file__).parents[3] / "examples" / "speech.flac"
SPOKEN = (
    "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do for them."
)


def samples_path() -> Path:
    """The file in the cache that holds the samples once they were fetched."""
    return home() / "samples" / "emoji.npz"


def fetch(progress: Callable[[str, int, int | None], None] | None = None) -> Path:
    """Bring both packages (22 MB), verified by the registry's own hashes, and keep the samples (3 MB)."""
    if samples_path().is_file():
        return samples_path()
    archives = [npm.obtain(source, progress)[0] for source in (PICTURES, NAMES)]
    samples = read_pictures(*archives)
    with staged(samples_path()) as draft:
        with draft.open("wb") as file:
            np.savez_compressed(
                file, pictures=np.stack([np.asarray(p) for p, _ in samples]), names=[n for _, n in samples]
            )
        draft.replace(samples_path())
    for archive in archives:
        archive.unlink(missing_ok=True)
    return samples_path()


def read_pictures(drawings: Path, annotations: Path) -> list[tuple[Image, str]]:
    """The first `COUNT` emoji by code point that have a plain English name, RGB on white, out of the two packages."""
    with tarfile.open(annotations) as tar:
        table = json.loads(_read(tar, "package/annotations/en/annotations.json"))["annotations"]["annotations"]
    single = {f"{ord(sign):x}": entry for sign, entry in table.items() if len(sign) == 1 and "tts" in entry}
    named = {key: entry["tts"][0].lower() for key, entry in single.items() if key > "1f300"}
    plain = {key: name for key, name in named.items() if re.fullmatch(r"[a-z ]{3,24}", name)}
    found: dict[str, Image] = {}
    with tarfile.open(drawings) as tar:
        for member in tar:
            key = Path(member.name).stem
            if member.name.endswith(".webp") and key in plain:
                picture = images.open(io.BytesIO(_read(tar, member.name))).convert("RGBA")
                canvas = images.new("RGBA", picture.size, "white")
                canvas.alpha_composite(picture)
                found[key] = canvas.convert("RGB").resize((SIDE, SIDE))
    return [(found[key], plain[key]) for key in sorted(found)[:COUNT]]


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def pictures() -> tuple[tuple[Image, str], ...]:
    """Pictures, RGB 128 x 128, and their lower-case names.  Raises MissingData before `fetch`."""
    if not samples_path().is_file():
        raise MissingData("the pictures are not in the cache; fetch them with `polymodal check --fetch` (22 MB)")
    return _kept(samples_path())


@cache
def _kept(path: Path) -> tuple[tuple[Image, str], ...]:
    with np.load(path, allow_pickle=False) as kept:
        return tuple((images.fromarray(p), str(n)) for p, n in zip(kept["pictures"], kept["names"], strict=True))


def pixels(height: int, width: int | None = None, count: int = COUNT) -> Tensor:
    """The pictures as float32 [count, 3, height, width] in -1..1."""
    size = (width or height, height)
    rows = [np.asarray(picture.resize(size), dtype=np.float32) for picture, _ in pictures()[:count]]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous() / 127.5 - 1.0


def captions(count: int = COUNT) -> list[str]:
    """Their names, as "red apple"."""
    return [name for _, name in pictures()[:count]]


def speech(rate: int = 16000) -> Tensor:
    """The recorded sentence `SPOKEN` as float32 samples; raises MissingData outside a checkout of the repository."""
    if not SPEECH.is_file():
        raise MissingData(
            "examples/speech.flac is not here: training checks on sound need a checkout of the repository"
        )
    import soundfile

    samples, found = soundfile.read(SPEECH, dtype="float32")
    if found != rate:
        raise MissingData(f"examples/speech.flac: expected {rate} samples per second, found {found}")
    return torch.from_numpy(samples)
