"""`systems` and `show`: what there is, and what one of them is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

JSON = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")]


def systems(json: JSON = False) -> None:
    """List the models that polymodal knows; `show ID` has their variants."""
    from polymodal import systems
    from polymodal.cli.output import console, print_json

    records = [systems.get(name) for name in systems.ids()]
    if json:
        print_json([as_dict(record) for record in records])
        return
    from rich.text import Text

    widest = max(len(record.id) for record in records)
    for record in records:
        fusion = "+".join(record.fusion) or "-"
        flow = f"{', '.join(record.inputs)} -> {', '.join(record.outputs)}"
        line = Text(f"{record.id:{widest}}  ", style="bold")
        line.append(f"{record.year}  {sizes(record)}  {fusion}  {flow}", style="not bold")
        console().print(line)
        console().print(Text(f"{'':{widest}}  {record.headline}", style="dim"))


def sizes(record: Any) -> str:
    """Its variants in few words: "7b (7.1B)", or how many there are and from what size to what."""
    from polymodal.cli.output import human_count

    counts = [each.parameters for each in record.variants]
    if len(counts) == 1:
        return f"{record.variants[0].name} ({human_count(counts[0])})"
    return f"{len(counts)} variants ({human_count(min(counts))} to {human_count(max(counts))})"


def as_dict(record: Any) -> dict[str, Any]:
    """The stable keys of one system in `systems --json`."""
    sources = {str(source): source for variant in record.variants for source in variant.files()}
    sources |= {str(each.repository): each.repository for each in record.variants if each.repository is not None}
    return {
        "id": record.id,
        "names": list(record.aliases),
        "year": record.year,
        "fusion": list(record.fusion),
        "assembly": record.assembly,
        "inputs": list(record.inputs),
        "outputs": list(record.outputs),
        "variants": [{"name": each.name, "parameters": each.parameters} for each in record.variants],
        "weights": [{"source": name, "license": source.license} for name, source in sources.items()],
        "headline": record.headline,
        "sheet": record.reference,
    }


def show(
    model: Annotated[str, typer.Argument(help="An id, id:variant, a folder of weights or your own ./system.py.")],
    json: JSON = False,
    svg: Annotated[Path | None, typer.Option(help="Write the drawing to this file.")] = None,
) -> None:
    """Draw one model: its modules, shapes, tokens, parameters, training stages and memory."""
    import polymodal as pm
    from polymodal.cli.drawing import draw, render
    from polymodal.cli.output import console, print_json

    drawing = draw(*pm.look(model))
    if svg is not None:
        from polymodal.cli.output import write_text
        from polymodal.cli.svg import render_svg

        write_text(svg, render_svg(drawing))
    if json:
        print_json(drawing.as_dict())
    elif svg is None:
        console().print(render(drawing))
    else:
        typer.echo(f"wrote {svg}")
