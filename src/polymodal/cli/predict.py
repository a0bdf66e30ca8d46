"""`predict`: what a method says of a file or folder of features, as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL_HELP, Load, loads_a_model


@loads_a_model
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    data: Annotated[
        Path, typer.Option(help="Features: .pkl (MMSA, conv-emotion), .npz, .csv, or a folder of one; FILE@SPLIT.")
    ],
    out: Annotated[Path, typer.Option(help="Where the lines go.")] = Path("predictions.jsonl"),
    batch: Annotated[int, typer.Option(min=1, help="Samples that are computed together.")] = 32,
    json: JSON = False,
    *,
    load: Load,
) -> None:
    """Write what a method says of features: a line a sample, with its id and prediction.

    polymodal predict my-self-mm --data features.pkl@test
    """
    import polymodal as pm
    from polymodal.cli.output import counted, print_json, progress

    loaded = load(model)
    with progress("predicting", 1) as step:
        lines = pm.predict_features(
            loaded, data, out=out, batch=batch, done=lambda count, total: step(0, f"{count} of {total} samples")
        )
    if json:
        print_json({"model": loaded.name, "data": str(data), "samples": len(lines), "out": str(out)})
        return
    typer.echo(f"wrote {counted(len(lines), 'prediction')} to {out}")
