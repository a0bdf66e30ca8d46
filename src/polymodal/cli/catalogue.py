"""`systems` and `show`: what there is, and what one of them is made of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polymodal.cli import plan
from polymodal.cli.model import with_options

if TYPE_CHECKING:
    from polymodal.systems import System, Variant
    from polymodal.train.plan import Machine

JSON = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")]


FUSION = Annotated[str, typer.Option(help="Only this fusion: A, B, C, D, fusion-encoder, method, agent or none.")]
INPUT = Annotated[str, typer.Option(help="Only what takes this, as audio.")]
OUTPUT = Annotated[str, typer.Option(help="Only what gives this, as image.")]
YEAR = Annotated[str, typer.Option(help="Only of a year, or of years, as 2021-2023.")]
LINE = Annotated[str, typer.Option(help='Only of a line of work, as "any to any".')]
PROVED = Annotated[
    str,
    typer.Option(
        help="Only where `polymodal check --all` saw this: build, keys, parity, cache, batch, recipe or headline."
    ),
]
ORACLE = Annotated[
    str,
    typer.Option(help="Only what was compared with this: transformers, official code, package, composite or paper."),
]
GROUP = Annotated[str, typer.Option("--group-by", help="Under headings: fusion, year, line, input or output.")]
MAP_SVG = Annotated[Path | None, typer.Option("--svg", help="Draw the map of them into this .svg file; - is stdout.")]
MAP_PNG = Annotated[Path | None, typer.Option("--png", help="Draw the map of them into this .png file; - is stdout.")]


def systems(
    fusion: FUSION = "",
    input: INPUT = "",
    output: OUTPUT = "",
    year: YEAR = "",
    line: LINE = "",
    proved: PROVED = "",
    oracle: ORACLE = "",
    group_by: GROUP = "",
    svg: MAP_SVG = None,
    png: MAP_PNG = None,
    json: JSON = False,
) -> None:
    """List the systems of the catalogue; `polymodal show ID` has the variants and parts of one.

    --svg draws them all in one picture: five modules, types of fusion, lines of work over the years.
    """
    from polymodal import systems
    from polymodal.check import proved as proof
    from polymodal.cli.output import console, print_json
    from polymodal.cli.picture import draw_map
    from polymodal.errors import ConfigError
    from polymodal.systems import as_dict, grouped, select

    wanted = systems.Wanted(fusion=fusion, input=input, output=output, years=year, line=line)
    records = select([systems.get(name) for name in systems.ids()], wanted)
    seen = proof.chosen([each.id for each in records], proved, oracle)
    records = [each for each in records if each.id in seen]
    if svg is not None or png is not None:
        if json:
            raise ConfigError("--json and a picture are two answers; ask for one of them")
        targets = [(path, kind) for path, kind in ((svg, "svg"), (png, "png")) if path is not None]
        draw_map(records, targets, proof.proved())
        return
    if json:
        print_json([as_dict(record) | {"proved": proof.proved().get(record.id)} for record in records])
        return
    groups = grouped(records, group_by) if group_by else {"": records}
    widest = max((len(record.id) for record in records), default=0)
    for name, members in groups.items():
        if name:
            console().print(f"\n{name} ({len(members)})", style="bold underline")
        for record in members:
            print_system(record, widest)
    if not records:
        console(error=True).print("no system is all of that; `polymodal systems` lists every one")


def print_system(record: System, widest: int) -> None:
    """Its two lines."""
    from rich.text import Text

    from polymodal.cli.output import console

    fusion = "+".join(record.fusion) or "-"
    flow = f"{', '.join(record.inputs)} -> {', '.join(record.outputs)}"
    line = Text(f"{record.id:{widest}}  ", style="bold")
    line.append(f"{record.year}  {sizes(record)}  {fusion}  {flow}", style="not bold")
    console().print(line)
    console().print(Text(f"{'':{widest}}  {record.headline}", style="dim"))


def sizes(record: Any) -> str:
    """Its variants in few words: "7b (7.1B)", or how many there are and from what size to what."""
    from polymodal.printable import human_count

    counts = [each.parameters for each in record.variants]
    if len(counts) == 1:
        return f"{record.variants[0].name} ({human_count(counts[0])})"
    least, most = human_count(min(counts)), human_count(max(counts))
    return f"{len(counts)} variants ({least if least == most else f'{least} to {most}'})"


MODELS = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...", help="Ids, id:variant, checkpoint folders or your own ./system.py (which is run)."
    ),
]
SVG = Annotated[Path | None, typer.Option(help="Draw the architecture into this .svg (or .png) file; - is stdout.")]
PNG = Annotated[Path | None, typer.Option(help="Draw the architecture into this .png (or .svg) file; - is stdout.")]
STAGE = Annotated[
    str | None,
    typer.Option(
        help="Colour the drawing by what this training stage trains and what it freezes; of --plan: this one."
    ),
]


@partial(with_options, keyword="machine", options=plan.OPTIONS, make=plan.wanted)
def show(
    model: MODELS,
    json: JSON = False,
    svg: SVG = None,
    png: PNG = None,
    stage: STAGE = None,
    *,
    machine: plan.Wanted,
) -> None:
    """Show what models are made of: modules, shapes, tokens, parameters, training stages, memory; --svg draws them.

    --plan: memory of each device and time of every training stage instead.
    """
    from polymodal.cli.picture import STANDARD_OUTPUT, draw_pictures, format_of
    from polymodal.errors import ConfigError

    targets = [(path, option) for path, option in ((svg, "svg"), (png, "png")) if path is not None]
    for path, option in targets:
        format_of(path, option)  # a wrong ending costs a moment, not a drawing
    if (planned := machine()) is not None:
        if targets:
            raise ConfigError("--plan draws no picture; leave --svg and --png out")
        show_plans(model, planned, stage, json)
        return
    if stage is not None and not targets:
        raise ConfigError("--stage colours a picture: give --svg FILE or --png FILE, too")
    if json and any(path == STANDARD_OUTPUT for path, _ in targets):
        raise ConfigError("--json and a picture cannot both go to stdout; give the picture a file")
    import polymodal as pm
    from polymodal.cli.output import print_json

    variants = [pm.look(each) for each in model]
    if targets:
        with of_others(variants):
            draw_pictures(variants, targets, stage)
        for path, _ in targets if not json else ():
            if path != STANDARD_OUTPUT:
                typer.echo(f"wrote {path}", err=any(other == STANDARD_OUTPUT for other, _ in targets))
        if not json:
            return
    from polymodal.cli.drawing import draw, render
    from polymodal.cli.output import console

    with of_others(variants):
        drawings = [
            replace(draw(*each), chat_format=pm.chat_format(name)) for name, each in zip(model, variants, strict=True)
        ]
        if json:
            print_json(drawings[0].as_dict() if len(drawings) == 1 else [each.as_dict() for each in drawings])
            return
        for drawing in drawings:
            console().print(render(drawing))


def show_plans(models: Sequence[str], machine: Machine, stage: str | None, json: bool) -> None:
    """What training will need."""
    import polymodal as pm
    from polymodal.cli.output import print_json

    found = [(name, pm.plan(name, machine=machine, stage=stage)) for name in models]
    if json:
        tables = [plan.as_json(name, machine, plans) for name, plans in found]
        print_json(tables[0] if len(tables) == 1 else tables)
        return
    for name, plans in found:
        plan.print_plans(name, machine, plans)


def of_others(variants: Sequence[tuple[System, Variant]]) -> AbstractContextManager[None]:
    """Around the drawing of models: where one is a folder's, what cannot be drawn of it is its config's fault."""
    from polymodal.checkpoints.record import understood

    given = [variant for system, variant in variants if variant not in system.variants and variant.config is not None]
    if not given:
        return nullcontext()
    return understood(f"{', '.join(each.name for each in given)}: config.json", given[0].config)
