"""Generation from tensors, under the names of the transformers library, so that scripts can swap one for the other.

    tensors and options in one call -> SamplingOptions, end and padding ids -> ids [B, T + new]
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.assemblies.generate import Ending, generate
from polymodal.assemblies.multimodal_lm import MultimodalLM
from polymodal.assemblies.sampling import SamplingOptions
from polymodal.errors import ConfigError

_NAMES = {
    "max_new_tokens": "max_tokens", "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "repetition_penalty": "repetition_penalty", "num_beams": "beams", "length_penalty": "length_penalty",
    "seed": "seed",
}  # fmt: skip
_DEFAULT = SamplingOptions(max_tokens=20)  # the library's own length of an answer
_RANDOM = frozenset({"temperature", "top_k", "top_p", "min_p"})  # without meaning where nothing is drawn
_SAMPLING = {"temperature": 1.0, "top_k": 50}  # what the library samples with when it is told nothing else


def split_options(
    given: Mapping[str, Any],
    options: SamplingOptions | None,
    ends: tuple[Collection[int], int | None],
    settings: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], SamplingOptions, tuple[int, ...], int | None]:
    """One call's tensors, options, end ids and padding id.

    settings: what the folder's generation_config.json says; it holds where the call says nothing and gives no
    `options`.  Without a padding id the first end id pads, as published generation has it.
    Raises ConfigError for options that contradict.
    """
    rest = dict(given)
    sample = rest.pop("do_sample", None)
    changes = {ours: rest.pop(theirs) for theirs, ours in _NAMES.items() if rest.get(theirs) is not None}
    said = dict(settings or {}) if options is None else {}
    if sample is None and "temperature" not in changes:
        sample = said.get("do_sample") or None
    held = {ours: said[theirs] for theirs, ours in _NAMES.items() if said.get(theirs) is not None}
    if not sample:
        held = {name: value for name, value in held.items() if name not in _RANDOM}
    if sample is False:
        changes["temperature"] = 0.0
    elif sample:
        changes = {**_SAMPLING, **held, **changes}
    elif changes.get("temperature") is None and {"top_k", "top_p", "min_p"} & set(changes):
        raise ConfigError("generate: top_k, top_p and min_p need do_sample=True or a temperature")
    changes = {**held, **changes}
    eos, pad = ends
    if "eos_token_id" in rest:
        named = rest.pop("eos_token_id")
        eos = tuple(named) if isinstance(named, list | tuple | set) else () if named is None else (named,)
    pad = rest.pop("pad_token_id", pad)
    if pad is None:
        pad = next(iter(eos), None)
    for name in ("use_cache", "return_dict_in_generate"):
        rest.pop(name, None)
    return rest, replace(options or _DEFAULT, **changes), tuple(eos), pad


def writes(module: Any) -> bool:
    """Whether the module generates from tensors."""
    return isinstance(module, MultimodalLM) or getattr(module, "generate", None) is not None


def generated(
    module: nn.Module, tensors: Mapping[str, Any], options: SamplingOptions, eos: Sequence[int], pad: int | None
) -> Tensor | None:
    """ids [B, T + new]; None for a module that does not write."""
    if isinstance(module, MultimodalLM):
        module.check_names(tensors)
    # Published beam search takes a padding id of 0 for none, and fills with the first end id.
    fill = eos[0] if options.beams > 1 and not pad and eos else pad
    ending = Ending(eos=frozenset(eos), placeholders=True, beyond=True)
    own = getattr(module, "generate", None)
    if own is not None:
        return own(tensors, options, ending, fill)
    if not isinstance(module, MultimodalLM):
        return None
    tensors = module.arranged(masked(tensors, frozenset(eos), pad))
    answers = generate(module, tensors, options, ending)
    prompt = tensors["input_ids"]
    return torch.cat((prompt, padded([answer.ids for answer in answers], fill).to(prompt.device)), dim=1)


def masked(tensors: Mapping[str, Any], eos: frozenset[int], pad: int | None) -> Mapping[str, Any]:
    """The tensors with the mask that published generation reads off the padding ids of a prompt without one."""
    if "input_ids" not in tensors or tensors.get("attention_mask") is not None or pad is None or pad in eos:
        return tensors
    mask = tensors["input_ids"] != pad
    return tensors if bool(mask.all()) else {**tensors, "attention_mask": mask.long()}


def padded(rows: list[tuple[int, ...]], pad: int | None) -> Tensor:
    """Rows of unequal length as one int64 table, padded behind."""
    length = max(len(row) for row in rows)
    if pad is None and any(len(row) < length for row in rows):
        raise ConfigError("generate: rows end at different lengths; give pad_token_id")
    table = torch.full((len(rows), length), 0 if pad is None else pad, dtype=torch.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return table
