"""`study`: claims of the survey, measured on real data; each study writes its numbers and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.catalogue import JSON


def fusion(
    data: Annotated[
        Path | None,
        typer.Option(help="Pictures with names of one word: .jsonl, .json, .csv or .parquet, several a name."),
    ] = None,
    speech: Annotated[
        Path | None,
        typer.Option(
            help="Recordings with labels, which each type then learns beside pictures; without, it is counted."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of runs and results; the same study goes on in it.")] = Path(
        "study-fusion"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each type.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Batches of 16 that each run learns from.")] = 100,
    names: Annotated[int, typer.Option(min=2, help="Names to tell apart: those with most pictures.")] = 64,
    quick: Annotated[bool, typer.Option("--quick", help="A trial of a minute at tiny size, without data.")] = False,
    json: JSON = False,
) -> None:
    """Measure the four types of fusion on equal data, backbone and budget: fusion.json and fusion.html.

    polymodal study fusion --data names.jsonl --out study-fusion
    polymodal study fusion --data names.jsonl --speech drinks.jsonl
    """
    import polymodal as pm
    from polymodal.cli.output import print_json, waiting

    options = pm.FusionOptions(out=out, data=data, speech=speech, seeds=seeds, steps=steps, names=names, quick=quick)
    with waiting("measuring") as say:
        found = pm.study_fusion(options, say)
    if json:
        print_json({**found, "out": str(out)})
        return
    for each in found["types"].values():
        accuracy = each["accuracy"]
        spread = "" if accuracy["deviation"] is None else f" ± {100 * accuracy['deviation']:.1f}"
        typer.echo(f"{each['id']}  {100 * accuracy['mean']:5.1f}{spread} %  {each['trainable']:>12,} numbers learn")
    for each in (found["speech"] or {"types": {}})["types"].values():
        heard, left = (100 * each[name]["mean"] for name in ("accuracy", "pictures_after"))
        typer.echo(f"with speech, {each['id']}: {heard:.1f} % of recordings, {left:.1f} % of pictures after it")
    for each in found["verdicts"]:
        typer.echo(f"{each['type']}  {each['claim']}: {each['verdict']}")
    typer.echo(f"see {out / 'fusion.html'}")


def convergence(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Two or more: files of features (.npz, .pt, .safetensors), parts such as smollm2-135m, or models, "
            "with '#image' or '#text' for one side; by default the parts of mini.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Pairs of pictures and texts; by default those of `check --fetch`.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of features and results.")] = Path("study-convergence"),
    metric: Annotated[str, typer.Option(help="mutual_knn, or another of `polymodal systems platonic`.")] = "mutual_knn",
    topk: Annotated[int, typer.Option(min=1, help="Neighbours that count.")] = 10,
    limit: Annotated[int, typer.Option(min=0, help="The first pairs alone; 0: all.")] = 0,
    shuffles: Annotated[int, typer.Option(min=0, help="Shuffles that show the level of chance.")] = 20,
    json: JSON = False,
) -> None:
    """Measure how alike models see the same pairs (arXiv 2405.07987): convergence.json and convergence.html.

    polymodal study convergence vision.npz language.npz
    polymodal study convergence efficientnet-lite0 smollm2-135m --data captions.jsonl
    """
    import polymodal as pm
    from polymodal.cli.output import print_json, waiting

    options = pm.ConvergenceOptions(
        out=out, models=tuple(models or ()), data=data, metric=metric, topk=topk, limit=limit, shuffles=shuffles
    )
    with waiting("measuring") as say:
        found = pm.study_convergence(options, say)
    if json:
        print_json({**found, "out": str(out)})
        return
    for each in found["pairs"]:
        chance = "" if each["shuffled_mean"] is None else f"  (shuffled {each['shuffled_mean']:.3f})"
        typer.echo(f"{each['alignment']:.3f}{chance}  {each['models'][0]} and {each['models'][1]}")
    typer.echo(f"{found['samples']} samples; see {out / 'convergence.html'}")


STUDIES = (convergence, fusion)
