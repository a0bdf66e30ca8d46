"""How commands load their model: the options that name and place it, and loading with progress.

@loads_a_model
def ask(..., model: MODEL = "mini", *, load: Load) -> None:      # gets --adapter, --device ... --threads, too
    loaded = load(model)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Annotated, Any

import typer

MODEL_HELP = (
    "An id, id:variant, a checkpoint folder or file, owner/repository on the hub, or your own "
    "./system.py (which is run)."
)
MODEL = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
DEVICE = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda, cuda:1, mps ...; auto: a CUDA device with enough free memory, else the CPU."),
]
DTYPE = Annotated[str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16, float16.")]
QUANTISE = Annotated[
    str | None,
    typer.Option(help="int8, int4: weights of the language model in 8 or 4 bits, quantised while loading."),
]
ADAPTER = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", help="A PEFT adapter (LoRA, DoRA) to attach: its folder or repository; repeat it for more."
    ),
]
THREADS = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default the number of idle cores.")]
OPTIONS = {
    "adapter": (ADAPTER, None),
    "device": (DEVICE, "auto"),
    "dtype": (DTYPE, "auto"),
    "quantise": (QUANTISE, None),
    "threads": (THREADS, None),
}

Load = Callable[[str], Any]
"""address -> Model"""


Options = Mapping[str, tuple[Any, Any]]
"""name of a parameter -> its annotation, its default"""


def loads_a_model(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the loading options to a command and pass it `load`, a function that loads a model with them."""
    return with_options(command, "load", OPTIONS, lambda **options: partial(open_model, **options))


def with_options(
    command: Callable[..., Any], keyword: str, options: Options, make: Callable[..., Any]
) -> Callable[..., Any]:
    """Add options to a command, which gets what `make` makes of their values as its keyword argument `keyword`."""

    @wraps(command)
    def run(*args: Any, **values: Any) -> Any:
        chosen = {name: values.pop(name, default) for name, (_, default) in options.items()}
        return command(*args, **values, **{keyword: make(**chosen)})

    own = inspect.signature(command, eval_str=True)
    kept = [each for name, each in own.parameters.items() if name != keyword]
    kind = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(name, kind, default=value, annotation=as_) for name, (as_, value) in options.items()]
    run.__signature__ = own.replace(parameters=[*kept, *more])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*kept, *more)}
    return run


def open_model(
    address: str,
    adapter: list[str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantise: str | None = None,
    threads: int | None = None,
) -> Any:
    """Load a model and its adapters, with progress on stderr: bars for downloads, a spinner for the rest."""
    import polymodal as pm
    from polymodal.cli.output import transfers, waiting
    from polymodal.cli.threads import set_threads
    from polymodal.weights.placement import placement

    set_threads(threads)
    placement(device, dtype, quantise)  # a wrong name costs a moment, not a download
    with transfers() as report:
        pm.pull(address, progress=report)
    with waiting(f"loading {address}"):
        return pm.load(address, device=device, dtype=dtype, quantise=quantise, adapters=adapter or ())
