"""How every command gets its model: the options that name and place it, and loading it with progress shown.

@loads_a_model
def ask(..., model: MODEL = "mini", *, load: Load) -> None:      # gets --adapter, --device, --dtype and --quantise, too
    loaded = load(model)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Annotated, Any

import typer

MODEL_HELP = "An id, id:variant, a folder of weights, owner/repository of the hub or your own ./system.py."
MODEL = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
DEVICE = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...; auto: a CUDA device with room for it.")]
DTYPE = Annotated[str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16, float16.")]
QUANTISE = Annotated[str | None, typer.Option(help="int8: the language model's weights as 8-bit numbers.")]
ADAPTER = Annotated[
    list[str] | None, typer.Option("--adapter", help="A PEFT folder or repository to attach; may be given again.")
]
OPTIONS = {
    "adapter": (ADAPTER, None),
    "device": (DEVICE, "auto"),
    "dtype": (DTYPE, "auto"),
    "quantise": (QUANTISE, None),
}

Load = Callable[[str], Any]
"""address -> Model"""


def loads_a_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of loading; its keyword `load` becomes a function that loads a model by them."""

    @wraps(command)
    def run(*args: Any, **given: Any) -> None:
        options = {name: given.pop(name) for name in OPTIONS}
        command(*args, **given, load=partial(open_model, **options))

    own = inspect.signature(command, eval_str=True)
    kept = [each for name, each in own.parameters.items() if name != "load"]
    kind = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(name, kind, default=value, annotation=as_) for name, (as_, value) in OPTIONS.items()]
    run.__signature__ = own.replace(parameters=[*kept, *more])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*kept, *more)}
    return run


def open_model(
    address: str,
    adapter: list[str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantise: str | None = None,
) -> Any:
    """Load a model and its adapters, showing downloads as bars and the rest as a spinner; progress goes to stderr."""
    import polymodal as pm
    from polymodal.cli.output import transfers, waiting
    from polymodal.weights.placement import placement

    placement(device, dtype, quantise)  # a wrong name costs a moment, not a download
    with transfers() as report:
        pm.pull(address, progress=report)
    with waiting(f"loading {address}"):
        return pm.load(address, device=device, dtype=dtype, quantise=quantise, adapters=adapter or ())
