"""`systems` and `show`: what there is, and what one of them is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

JSON = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")]


def systems(json: JSON = False) -> None:
    """List the models that polymodal knows."""
    from polymodal.cli.output import console, human_count, print_json
    from polymodal.systems import _system

    records = [_system.get(name) for name in _system.ids()]
    if json:
        print_json([as_dict(record) for record in records])
        return
    from rich.table import Table

    table = Table("id", "variants", "year", "fusion", "in", "out", "what it is counted for")
    for record in records:
        variants = ", ".join(f"{each.name} ({human_count(each.parameters)})" for each in record.variants)
        fusion, inputs, outputs = "+".join(record.fusion), ", ".join(record.inputs), ", ".join(record.outputs)
        table.add_row(record.id, variants, str(record.year), fusion, inputs, outputs, record.headline)
    console().print(table)


def as_dict(record: Any) -> dict[str, Any]:
    """The stable keys of one system in `systems --json`."""
    sources = {str(source): source for variant in record.variants for source in variant.files()}
    sources |= {str(each.repository): each.repository for each in record.variants if each.repository is not None}
    return {
        "id": record.id,
        "names": list(record.names),
        "year": record.year,
        "fusion": list(record.fusion),
        "assembly": record.assembly,
        "inputs": list(record.inputs),
        "outputs": list(record.outputs),
        "variants": [{"name": each.name, "parameters": each.parameters} for each in record.variants],
        "weights": [{"source": name, "license": source.license} for name, source in sources.items()],
        "headline": record.headline,
        "sheet": record.sheet,
    }


def show(
    model: Annotated[str, typer.Argument(help="An id, id:variant or your own ./system.py.")],
    json: JSON = False,
    svg: Annotated[Path | None, typer.Option(help="Write the drawing to this file.")] = None,
) -> None:
    """Draw one model: its modules, shapes, tokens, parameters, training stages and memory."""
    from polymodal.cli.drawing import draw, render
    from polymodal.cli.output import console, print_json
    from polymodal.systems import _system

    drawing = draw(*_system.find(model))
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
