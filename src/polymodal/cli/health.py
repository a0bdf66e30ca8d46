"""`doctor`: what this machine and this installation are, and whether polymodal can work on them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON


def doctor(
    json: JSON = False,
    quick: Annotated[bool, typer.Option("--quick", help="Skip the two speed measurements.")] = False,
) -> None:
    """Check this machine: versions, memory, GPU, threads, codecs, cache, downloaded models, measured speed."""
    from polymodal.cli import machine
    from polymodal.cli.output import console, print_json, waiting

    with waiting("checking the machine"):
        facts = machine.look(measure=not quick)
    if json:
        print_json(facts)
    else:
        console().print(table(facts))
        for problem in facts["problems"]:
            typer.echo(f"problem: {problem}")
        if not facts["problems"]:
            typer.echo("no problems found")
    if facts["problems"]:
        raise typer.Exit(1)


def table(facts: dict[str, Any]) -> Any:
    """The facts as rows of a name and a value."""
    from rich.table import Table
    from rich.text import Text

    rows = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in in_words(facts):
        rows.add_row(Text(name), Text(value))
    return rows


def in_words(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Every fact as a person would say it: (name, value)."""
    from polymodal.cli.output import counted

    versions = [f"{name} {version or 'is missing'}" for name, version in facts["versions"].items()]
    cpu, memory, measured = facts["cpu"], facts["memory_gb"], facts.get("measured")
    total, free = memory["total"], memory["free"]
    rows = [
        ("versions", ", ".join(versions)),
        ("system", facts["system"]),
        ("processor", f"{cpu['name']}, {cores(cpu['cores'])}; {', '.join(cpu['features']) or 'no vector units known'}"),
        ("threads", f"{cpu['threads']} ({cpu['threads_reason']})"),
        ("memory", "unknown" if total is None else f"{total:g} GB, of which {free:g} GB are free"),
        ("GPU", ", ".join(f"{each['name']} with {each['memory_gb']:g} GB" for each in facts["gpu"]) or "none"),
        ("native kernels", kernels(facts["native_kernels"])),
        ("codecs", ", ".join(facts["codecs"]) or "none"),
        ("cache folder", f"{facts['cache']}, {facts['free_disk_gb']:g} GB free on its disk"),
        ("downloaded", ", ".join(facts["pulled"]) or "no models yet; `polymodal pull mini` fetches the default model"),
    ]
    changed = facts["changed_files"]
    rows.append(
        (
            "downloaded files",
            f"{counted(len(changed), 'file')} changed since"
            if changed
            else "sizes and times as downloaded; `polymodal pull --verify` reads them whole",
        )
    )
    if measured is not None:
        speed = f"reads {measured['read_gb_s']:g} GB/s of memory, {measured['gemm_gflop_s']:g} GFLOP/s in float32"
        rows.append(("speed now", f"{speed} with {counted(cpu['threads'], 'thread')}"))
    return rows


def kernels(found: dict[str, Any]) -> str:
    """Whether decoding has its own compiled code, and what to do where it has not."""
    if found["available"]:
        return "compiled for this processor; decoding on the CPU uses them"
    return f"none, decoding uses torch's operators: {found['why_not']} (docs/speed.md)"


def cores(count: float) -> str:
    """2 -> "2 usable cores"; half a core of a container is "0.5 usable cores"."""
    return f"{count:g} usable {'core' if count == 1 else 'cores'}"
