"""`show ID --plan`: memory of each device and time of every stage of a recipe, at published sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polymodal.errors import ConfigError

if TYPE_CHECKING:
    from polymodal.train.plan import Machine, StagePlan

BFLOAT16, FLOAT32 = 790.0, 60.0
"""TFLOP/s of one H200 in matrix products, bfloat16 and float32: rounded, to be replaced by --tflops for another GPU."""

OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "plan": (
        Annotated[
            bool, typer.Option("--plan", help="Memory and time of training: of each stage, or of --stage NAME alone.")
        ],
        False,
    ),
    "gpus": (
        Annotated[int, typer.Option(min=0, help="For --plan: GPUs that share the run; 0: the CPUs of this machine.")],
        0,
    ),
    "micro_batch": (Annotated[int, typer.Option(min=1, help="For --plan: samples a pass of one device.")], 1),
    "length": (
        Annotated[int | None, typer.Option(min=1, help="For --plan: tokens of a sample, if not as published.")],
        None,
    ),
    "tflops": (
        Annotated[
            float | None,
            typer.Option(help=f"For --plan: TFLOP/s of one GPU; by default {BFLOAT16:.0f}, in float32 {FLOAT32:.0f}."),
        ],
        None,
    ),
    "efficiency": (Annotated[float, typer.Option(help="For --plan: the share of them that training reaches.")], 0.4),
}

Wanted = Callable[[], "Machine | None"]


def wanted(plan: bool, gpus: int, tflops: float | None, **given: Any) -> Wanted:
    """() -> the machine to plan for; None without --plan.  Measures this machine's rate where that is asked for."""

    def machine() -> Machine | None:
        from polymodal.train.plan import Machine

        if not plan:
            if gpus or tflops is not None:
                raise ConfigError("--gpus and --tflops are for --plan")
            return None
        if gpus or tflops is not None:
            rates = (BFLOAT16, FLOAT32) if tflops is None else (tflops, tflops)
            said = "assumed of one H200" if tflops is None else "--tflops"
        else:
            from polymodal.cli.machine import gemm_rate
            from polymodal.cli.threads import set_threads

            set_threads()
            rates, said = (gemm_rate() / 1e3,) * 2, "measured on this machine in float32"
        return Machine(devices=gpus or 1, rate=rates[0] * 1e12, float32_rate=rates[1] * 1e12, source=said, **given)

    return machine


def as_json(name: str, machine: Machine, plans: Sequence[StagePlan]) -> dict[str, Any]:
    """Stable keys for `--json`."""
    from dataclasses import asdict

    return {"model": name, "machine": asdict(machine), "stages": [each.as_dict() for each in plans]}


def print_plans(name: str, machine: Machine, plans: Sequence[StagePlan]) -> None:
    """A table for each stage."""
    from rich.table import Table

    from polymodal.cli.output import console, human_bytes
    from polymodal.printable import human_count

    out = console()
    rates = f"{machine.rate / 1e12:.3g} TFLOP/s at 16 bits, {machine.float32_rate / 1e12:.3g} in float32"
    devices = f"{machine.devices} {'device' if machine.devices == 1 else 'devices'}"
    out.print(f"{name} on {devices}: {rates} ({machine.source}), {100 * machine.efficiency:.0f} % of them assumed")
    if not plans:
        out.print("its recipe has no stages")
    for each in plans:
        sizes = f"trains {human_count(each.trained)} of {human_count(each.parameters)} parameters in {each.precision}"
        samples = f"{machine.micro_batch} x {each.length} tokens a pass"
        table = Table("memory of a device", "", "blocks computed again", title=f"{each.stage}: {sizes}, {samples}")
        for what, size in each.memory.items():
            table.add_row(what, human_bytes(size), human_bytes(each.checkpointed[what]))
        totals = each.as_dict()
        table.add_row("together", human_bytes(totals["total"]), human_bytes(totals["checkpointed_total"]))
        table.add_row(
            "hours", *("not known" if h is None else f"{h:,.3g}" for h in (each.hours, each.checkpointed_hours))
        )
        out.print(table)
        if each.seconds is not None and each.operations is not None:
            steps = "" if each.steps is None else f", {each.steps:,} steps"
            out.print(f"  a step of {each.batch:,} samples: {each.operations:.3g} FLOP, {each.seconds:.3g} s{steps}")
        for note in each.notes:
            out.print(f"  {note}")
