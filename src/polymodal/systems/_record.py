"""The record every system is written as: `SYSTEM = System(...)` in `systems/<id>.py` or `systems/<id>/__init__.py`.

A user's own file holds the same record.  What is public here is imported from `polymodal.systems`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from polymodal.checkpoints.record import CheckpointFormat, LoadedModel, ModelSpec, Part, Repository
from polymodal.errors import ConfigError, UnknownName
from polymodal.fields import check_fields, returned

if TYPE_CHECKING:
    from torch import nn

    from polymodal.train.recipe import Stage
    from polymodal.weights.source import Source


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One published size.

    parameters: how many numbers it holds.  weights: where each file comes from; a file that was cut over several
    packages is a tuple of sources.  config: what its published config.json says, for systems with checkpoint
    formats; format: the index of the one it is written in.  repository: where the whole checkpoint lies.
    difference_to: the weights that the repository's must be added to, which are not part of it; such a variant cannot
    be run by itself and is not the default.
    """

    name: str
    parameters: int
    weights: tuple[Source | tuple[Source, ...], ...] = ()
    summary: str = ""
    config: Mapping[str, Any] | None = None
    format: int = 0
    repository: Repository | None = None
    difference_to: str = ""

    def __post_init__(self) -> None:
        check_fields(self)

    def require_whole(self, where: str) -> None:
        """Raises ConfigError for weights that are only differences to others; where: whose they are, for people."""
        if self.difference_to:
            raise ConfigError(
                f"{where} was published as differences to {self.difference_to}, which are no model by themselves; add "
                "both as its authors describe, and load the folder with the sums, under another name"
            )

    def files(self) -> tuple[Source, ...]:
        """All sources one by one."""
        return tuple(part for each in self.weights for part in (each if isinstance(each, tuple) else (each,)))


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How to load.  dtype: a torch name such as "float32".  quantise: "int8" or "int4" for such weights in the linears
    of the backbone (nn/quantise.py), or None.  The files of the variant have been fetched before; progress and offline
    are for those that a system fetches only when they are needed (see `weights.fetch`).
    """

    device: str = "cpu"
    dtype: str = "float32"
    quantise: str | None = None
    progress: Callable[[str, int, int | None], None] | None = None
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class System:
    """One work of the survey, or a user's own.

    aliases: how it is called in print.  fusion: letters A to D, "fusion-encoder", "method" or "agent"; empty
    for one modality.
    assembly: class name in `models`.  inputs, outputs: modalities.  variants: the first is the default.  headline: the
    one thing it is counted for.  reference: the paper or page.  formats: the published checkpoints it reads at any
    size; its variants then have a config, and nothing more is needed.  Systems of another kind give build(variant) ->
    module with fresh weights (also on the meta device); parts(variant) -> the drawing; load(variant, LoadOptions) ->
    LoadedModel.  An agent, which only calls other models, has no weights: it gives load alone, and its variants have 0
    parameters.  recipe: training stages, empty when none is published.
    """

    id: str
    aliases: tuple[str, ...]
    year: int
    fusion: tuple[str, ...]
    assembly: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    variants: tuple[Variant, ...]
    headline: str
    reference: str
    formats: tuple[CheckpointFormat, ...] = ()
    build: Callable[[Variant], nn.Module] | None = None
    parts: Callable[[Variant], tuple[Part, ...]] | None = None
    load: Callable[[Variant, LoadOptions], LoadedModel] | None = None
    recipe: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    def model_spec(self, variant: Variant) -> ModelSpec:
        """What the variant's published config describes; raises ConfigError for a system without checkpoint formats."""
        if not self.formats or variant.config is None:
            raise ConfigError(f"{self.id}:{variant.name} is not read from a published config")
        return self.formats[variant.format].model_spec(variant.config)

    def module(self, variant: Variant) -> nn.Module:
        """The variant with fresh weights, also on the meta device; of an agent a module without any."""
        from torch import nn

        if self.is_agent:
            return nn.Module()
        build = self.model_spec(variant).build if self.build is None else partial(self.build, variant)
        return returned(build(), nn.Module, f"{self.id}:{variant.name}: build")

    def drawing(self, variant: Variant) -> tuple[Part, ...]:
        """The boxes of `show`."""
        if self.parts is None:
            return () if self.is_agent else self.model_spec(variant).parts
        return returned(self.parts(variant), tuple, f"{self.id}:{variant.name}: parts")

    def check_recipe(self, names: Collection[str] = ()) -> None:
        """Raises ConfigError for a stage that names parameters which no variant has, with the nearest names.

        A stage may name what only some variants hold: a recipe makes the whole, a variant may be a part of it.
        names: of a variant that is built already; where they are all that the stages name, nothing is built.
        """
        if self.recipe:
            from polymodal.train.parameters import unnamed_prefixes

            if not names or any(unnamed_prefixes(stage, names) for stage in self.recipe):
                _ = self._recipe_is_named

    @cached_property
    def _recipe_is_named(self) -> bool:
        """Whether the variants have what the stages name; raises ConfigError where they do not."""
        from polymodal.train.parameters import nearest_names, unnamed_prefixes
        from polymodal.weights.build import build_empty

        names: set[str] = set()
        for variant in self.variants:
            module = build_empty(partial(self.module, variant))
            names |= {name for name, _ in module.named_parameters()}
            if not any(unnamed_prefixes(stage, names) for stage in self.recipe):
                return True
        for stage in self.recipe:
            for does, prefix in unnamed_prefixes(stage, names):
                where = f"{self.id} ({', '.join(variant.name for variant in self.variants)})"
                raise ConfigError(f"stage {stage.name} of {self.id} {does} '{prefix}', which names no parameter of "
                                  f"{where}; {nearest_names(prefix, names)}")  # fmt: skip
        return True

    @property
    def is_agent(self) -> bool:
        """Whether it has no weights of its own: nothing to build and no checkpoint to read."""
        weightless = all(variant.parameters == 0 for variant in self.variants)
        return weightless and self.build is None and not self.formats and self.load is not None

    def variant(self, name: str | None = None) -> Variant:
        """The variant of that name, the first one for None; raises UnknownName."""
        if name is None:
            return self.variants[0]
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise unknown("variant", name, [variant.name for variant in self.variants], of=self.id)


def unknown(kind: str, name: str, known: Iterable[str], of: str = "") -> UnknownName:
    """The error for a name that does not exist: the nearest one if there is one, else the choices."""
    choices = sorted(known)
    near = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(choices)}"
    return UnknownName(f"unknown {kind} '{name}'{f' of {of}' if of else ''}; {hint}")
