"""`draw`: pictures, sounds, videos and texts from words and media, by a model that makes them itself."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.drawn_files import kind_of, line, told, wanted, write
from polymodal.cli.model import MODEL_HELP, Load, loads_a_model, with_options

SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.IGNORECASE)
WEIGHT = re.compile(r"(text|image|video|audio)=(\d{1,6}(?:\.\d{1,6})?)")
FILE = "A {} to go by, beside the words or in their place."
OPTIONS = {
    "image": (Annotated[str | None, typer.Option(metavar="FILE", help=FILE.format("picture"))], None),
    "audio": (Annotated[str | None, typer.Option(metavar="FILE", help=FILE.format("sound"))], None),
    "video": (Annotated[str | None, typer.Option(metavar="FILE", help=FILE.format("video"))], None),
    "mix": (Annotated[str | None, typer.Option(help="How much each of them counts, as text=2,audio=1.")], None),
    "frames": (Annotated[int, typer.Option(min=1, max=30, help="Frames of a video.")], 8),
}


@dataclass(frozen=True, kw_only=True)
class Given:
    """What `draw` goes by beside words.  media: opened; mix: weights by modality."""

    media: tuple[Any, ...] = ()
    mix: dict[str, float] | None = None
    frames: int = 8


def given_of(image: str | None, audio: str | None, video: str | None, mix: str | None, frames: int) -> Given:
    """Raises ConfigError and MediaError, before a model is loaded."""
    from polymodal.cli.inputs import inputs_of
    from polymodal.errors import ConfigError

    media = []
    for name, word in (("image", image), ("audio", audio), ("video", video)):
        if word is None:
            continue
        found = inputs_of(word)
        if len(found) != 1:
            raise ConfigError(f"--{name} {word}: expected one file, found {len(found)}")
        item: Any = found[0].open()
        if getattr(item, "modality", "") != name:
            raise ConfigError(f"--{name} {word}: the file is no {name}; it is {type(item).__name__.lower()}")
        media.append(item)
    weights = None
    if mix is not None:
        parts = [WEIGHT.fullmatch(each) for each in mix.split(",")]
        if not all(parts):
            raise ConfigError(f"--mix {mix}: expected weights of text, image, video or audio, as in text=2,audio=1")
        weights = {each[1]: float(each[2]) for each in parts if each is not None}
    return Given(media=tuple(media), mix=weights, frames=frames)


@loads_a_model
@lambda command: with_options(command, "given", OPTIONS, given_of)
def draw(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw, in quotes.")] = "",
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="File to write: .png, .jpg, .webp, .wav, .flac, .mp4, .txt; of several x-1.png, x-2.png"
        ),
    ] = Path("picture.png"),
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Width and height in pixels, as 512x512.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, max=64, help="How many; each has its own seed.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first: the same seed gives the same picture.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps of diffusion, where the model has them.")] = None,
    json: JSON = False,
    *,
    given: Given,
    load: Load,
) -> None:
    """Draw from words: polymodal draw ./Emu3-Gen-hf "a red cube" --out cube.png, or ./codi "rain" --out rain.mp4."""
    from polymodal.cli.output import print_json
    from polymodal.cli.streams import as_text
    from polymodal.errors import ConfigError, PromptError
    from polymodal.pipelines.image_generation import check_steps

    if not as_text(prompt).strip() and not given.media:
        raise PromptError('the prompt is empty; as in: polymodal draw MODEL "a red cube"')
    sides, kind = sides_of(size), kind_of(out)
    check_steps(steps)  # a mistake costs a moment, not a download
    loaded = load(model)
    loaded.require("draw")
    if not loaded.paints:
        raise ConfigError(f"{loaded.name} draws through diffusion pipelines of your own, from Python: see docs/draw.md")
    make = wanted(out, kind, loaded.makes, loaded.name)
    wishes: dict[str, Any] = {"size": sides, "n": n, "seed": seed, "steps": steps}
    if loaded.composes:
        wishes |= {"make": make, "mix": given.mix, "frames": given.frames}
    elif given.mix is not None:
        raise ConfigError(f"--mix: {loaded.name} does not weigh what it is given")
    reply = painted(loaded, [*([as_text(prompt)] if prompt else []), *given.media], wishes)
    made = reply.media[kind]
    files = write(made, out, kind)
    rows = [told(file, each, kind) for file, each in zip(files, made, strict=True)]
    text = reply.text if kind != "text" else ""
    if json:
        seconds = {name: round(value, 4) for name, value in reply.seconds.items()}
        said = {"text": text} if text else {}
        more = {"model": reply.model, "seed": seed, "tokens": reply.tokens, "seconds": seconds}
        print_json({"images" if kind == "image" else "files": rows, **said, **more})
        return
    if text.strip():
        print(text.strip())
    for file, row in zip(files, rows, strict=True):
        print(f"{file}: {line(row, kind)}", file=sys.stderr)


def sides_of(size: str | None) -> tuple[int, int] | None:
    """ "512x256" -> (512, 256).  Raises ConfigError."""
    from polymodal.errors import ConfigError

    if size is None:
        return None
    found = SIZE.fullmatch(size)
    if found is None or not int(found[1]) * int(found[2]):
        raise ConfigError(f"--size {size}: expected WIDTHxHEIGHT in pixels, as in 512x512")
    return int(found[1]), int(found[2])


def painted(loaded: Any, content: list[Any], wishes: dict[str, Any]) -> Any:
    """The reply of a model that makes its media; on a terminal with what share of them is made."""
    from polymodal.cli.output import status_line

    act = loaded.compose if loaded.composes else loaded.draw
    if not sys.stderr.isatty():
        return act(*content, **wishes)
    with status_line("drawing") as update:
        shown = 0.0

        def step(written: int, whole: int) -> None:
            nonlocal shown
            if (now := time.monotonic()) - shown > 0.2:
                shown = now
                update(f"drawing: {written:,} of {whole:,}")

        return act(*content, **wishes, step=step)
