"""`turn`: a photo, or a text, into other modalities, by a model that reads and writes them by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL_HELP, Load, loads_a_model, with_options

CODEC = "MODALITY=FOLDER: shows what is written of a grid."
STEPS = "Steps of codecs that draw by diffusion. [default: the codec's]"
OPTIONS = {
    "codec": (Annotated[list[str] | None, typer.Option("--codec", help=CODEC)], None),
    "steps": (Annotated[int | None, typer.Option(help=STEPS)], None),
}


@dataclass(frozen=True, kw_only=True)
class Codecs:
    """folders: of a modality.  steps: in which those draw that write by diffusion."""

    folders: dict[str, str]
    steps: int | None


def codecs_of(codec: list[str] | None, steps: int | None) -> Codecs:
    """Raises ConfigError."""
    from polymodal.pipelines.image_generation import check_steps

    check_steps(steps)  # a mistake costs a moment, not a download
    return Codecs(folders=dict(map(named, codec or [])), steps=steps)


@loads_a_model
@lambda command: with_options(command, "codecs", OPTIONS, codecs_of)
def turn(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    thing: Annotated[str, typer.Argument(metavar="PHOTO|TEXT", help="A picture, or words in quotes.")],
    into: Annotated[list[str], typer.Option("--into", "-i", help="A modality to write; in this order.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures (.png) and ids (.npy).")] = Path("."),
    seed: Annotated[int, typer.Option(help="Seed, where ids and pictures are drawn.")] = 0,
    json: JSON = False,
    *,
    codecs: Codecs,
    load: Load,
) -> None:
    """Turn a photo or words into other modalities: polymodal turn ./4M-7_B photo.jpg -i caption -i tok_semseg@224."""
    from polymodal.cli.output import print_json

    if not out.is_dir():
        from polymodal.errors import ConfigError

        raise ConfigError(f"--out {out}: there is no such folder")
    loaded = load(model)
    loaded.require("turn")
    built = {name: load(folder) for name, folder in codecs.folders.items()}
    found = loaded.turn(thing_of(thing), into, codecs=built, seed=seed, steps=codecs.steps)
    rows = [row_of(each, out) for each in found.values()]
    if json:
        print_json({"model": loaded.name, "seed": seed, "modalities": rows})
        return
    for row in rows:
        typer.echo(f"{row['modality']}: {row['text'] if row['text'] is not None else row['file']}")


def named(option: str) -> tuple[str, str]:
    """ "tok_depth@224=./codec" -> both.  Raises ConfigError."""
    from polymodal.errors import ConfigError

    name, sign, folder = option.partition("=")
    if not sign or not name or not folder:
        raise ConfigError(f"--codec {option}: expected MODALITY=FOLDER, as in tok_semseg@224=./semseg")
    return name, folder


def thing_of(thing: str) -> Any:
    """A picture where there is such a file, else words.  Raises MediaError for a file that is no picture."""
    import polymodal as pm
    from polymodal.cli.inputs import is_input
    from polymodal.cli.streams import as_text

    return pm.media(thing) if is_input(thing) else as_text(thing)


def row_of(each: Any, out: Path) -> dict[str, Any]:
    """What is told of a modality; of a grid after it was written as a file."""
    import numpy as np

    file = None
    if each.text is None:
        name = each.modality.replace("@", "-")
        file = out / f"{name}.npy" if each.values is None else out / f"{name}.png"
        if each.values is None:
            np.save(file, each.ids.numpy())
        else:
            shown(each.values).save(file, "PNG")
    boxes = each.meaning if each.modality == "det" else None
    things = None if boxes is None else [{"label": thing.label, "box": list(thing.box)} for thing in boxes]
    return {"modality": each.modality, "text": each.text, "things": things, "file": None if file is None else str(file),
            "ids": each.ids.tolist()}  # fmt: skip


def shown(values: Any) -> Any:
    """Values [C, H, W] as a picture: colours as they are, one channel as grey, of more the largest by its hue."""
    import colorsys

    import numpy as np
    from PIL import Image

    array = values.detach().float().cpu().numpy()
    if array.shape[0] == 3:
        return Image.fromarray(((array.transpose(1, 2, 0) + 1) * 127.5).clip(0, 255).astype(np.uint8))
    if array.shape[0] == 1:
        low, high = array.min(), array.max()
        return Image.fromarray(((array[0] - low) / max(high - low, 1e-9) * 255).astype(np.uint8))
    hues = [colorsys.hsv_to_rgb(n * 0.618 % 1, 0.7, 0.9) for n in range(array.shape[0])]
    return Image.fromarray((np.array(hues)[array.argmax(0)] * 255).astype(np.uint8))
