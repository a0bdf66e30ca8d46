"""`draw`: pictures from words, by a model that writes them itself."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL_HELP, Load, loads_a_model

SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.IGNORECASE)
ENDINGS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@loads_a_model
def draw(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw, in quotes.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Picture to write: .png, .jpg or .webp; of several x-1.png, x-2.png ...")
    ] = Path("picture.png"),
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Width and height in pixels, as 512x512.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, max=64, help="How many; each has its own seed.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first: the same seed gives the same picture.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps of diffusion, where the model has them.")] = None,
    json: JSON = False,
    *,
    load: Load,
) -> None:
    """Draw pictures from words: polymodal draw ./Emu3-Gen-hf "a red cube" --out cube.png."""
    from polymodal.cli.output import print_json
    from polymodal.cli.streams import as_text
    from polymodal.errors import ConfigError, PromptError

    if not as_text(prompt).strip():
        raise PromptError('the prompt is empty; as in: polymodal draw MODEL "a red cube"')
    sides = sides_of(size)
    check_target(out)
    loaded = load(model)
    loaded.require("draw")
    if not loaded.paints:
        raise ConfigError(f"{loaded.name} draws through diffusion pipelines of your own, from Python: see docs/draw.md")
    reply = painted(loaded, as_text(prompt), {"size": sides, "n": n, "seed": seed, "steps": steps})
    pictures = reply.media["image"]
    files = write(pictures, out)
    if json:
        rows = [{"file": str(file), "width": each.width, "height": each.height}
                for file, each in zip(files, pictures, strict=True)]  # fmt: skip
        seconds = {name: round(value, 4) for name, value in reply.seconds.items()}
        said = {"text": reply.text} if reply.text else {}
        more = {"model": reply.model, "seed": seed, "tokens": reply.tokens, "seconds": seconds}
        print_json({"images": rows, **said, **more})
        return
    if reply.text.strip():
        print(reply.text.strip())
    for file, each in zip(files, pictures, strict=True):
        print(f"{file}: {each.width} x {each.height} pixels", file=sys.stderr)


def sides_of(size: str | None) -> tuple[int, int] | None:
    """ "512x256" -> (512, 256).  Raises ConfigError."""
    from polymodal.errors import ConfigError

    if size is None:
        return None
    found = SIZE.fullmatch(size)
    if found is None or not int(found[1]) * int(found[2]):
        raise ConfigError(f"--size {size}: expected WIDTHxHEIGHT in pixels, as in 512x512")
    return int(found[1]), int(found[2])


def check_target(out: Path) -> None:
    """Raises ConfigError for a name that no picture can have, before anything is loaded."""
    from polymodal.errors import ConfigError

    if out.suffix.lower() not in ENDINGS:
        raise ConfigError(f"--out {out}: expected a name ending in {', '.join(ENDINGS)}")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")


def painted(loaded: Any, prompt: str, wishes: dict[str, Any]) -> Any:
    """The reply of a model that writes its pictures; on a terminal with what share of them is written."""
    from polymodal.cli.output import status_line

    if not sys.stderr.isatty():
        return loaded.draw(prompt, **wishes)
    with status_line("drawing") as update:
        shown = 0.0

        def step(written: int, whole: int) -> None:
            nonlocal shown
            if (now := time.monotonic()) - shown > 0.2:
                shown = now
                update(f"drawing: {written:,} of {whole:,}")

        return loaded.draw(prompt, **wishes, step=step)


def write(pictures: list[Any], out: Path) -> list[Path]:
    """Write pictures; of several with a number in each name.  Raises ConfigError."""
    from polymodal.errors import ConfigError

    several = len(pictures) > 1
    files = [out.with_stem(f"{out.stem}-{number}") if several else out for number in range(1, len(pictures) + 1)]
    for file, picture in zip(files, pictures, strict=True):
        try:
            picture.save(file, ENDINGS[out.suffix.lower()])
        except OSError as problem:
            raise ConfigError(f"cannot write {file}: {problem.strerror or problem}") from problem
    return files
