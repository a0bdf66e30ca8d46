"""Generation from tensors, under the names of the transformers library, so that scripts can swap one for the other.

    tensors and options in one call -> SamplingOptions, end and padding ids -> ids [B, T + new]
"""

from __future__ import annotations

from collections.abc import Mapping
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
_SAMPLING = {"temperature": 1.0, "top_k": 50}  # what the library samples with when it is told nothing else


def split_options(
    given: Mapping[str, Any], options: SamplingOptions | None, eos: frozenset[int], pad: int | None
) -> tuple[dict[str, Any], SamplingOptions, frozenset[int], int | None]:
    """One call's tensors, options, end ids and padding id.  Raises ConfigError for options that contradict."""
    rest = dict(given)
    sample = rest.pop("do_sample", None)
    changes = {ours: rest.pop(theirs) for theirs, ours in _NAMES.items() if rest.get(theirs) is not None}
    if sample is False:
        changes["temperature"] = 0.0
    elif sample:
        changes = {**_SAMPLING, **changes}
    elif changes.get("temperature") is None and {"top_k", "top_p", "min_p"} & set(changes):
        raise ConfigError("generate: top_k, top_p and min_p need do_sample=True or a temperature")
    if "eos_token_id" in rest:
        named = rest.pop("eos_token_id")
        eos = frozenset(named if isinstance(named, list | tuple | set) else [] if named is None else [named])
    pad = rest.pop("pad_token_id", pad)
    for name in ("use_cache", "return_dict_in_generate"):
        rest.pop(name, None)
    return rest, replace(options or _DEFAULT, **changes), eos, pad


def generated(
    module: nn.Module, tensors: Mapping[str, Any], options: SamplingOptions, eos: frozenset[int], pad: int | None
) -> Tensor | None:
    """ids [B, T + new]; None for a module that does not write."""
    if isinstance(module, MultimodalLM):
        module.check_names(tensors)
    own = getattr(module, "generate", None)
    if own is not None:
        return own(tensors, options, Ending(eos=eos, placeholders=True, beyond=True), pad)
    if not isinstance(module, MultimodalLM):
        return None
    tensors = module.arranged(masked(tensors, eos, pad))
    answers = generate(module, tensors, options, Ending(eos=eos, placeholders=True, beyond=True))
    prompt = tensors["input_ids"]
    return torch.cat((prompt, padded([answer.ids for answer in answers], pad).to(prompt.device)), dim=1)


def masked(tensors: Mapping[str, Any], eos: frozenset[int], pad: int | None) -> Mapping[str, Any]:
    """The tensors with the mask that published generation reads off the padding ids of a prompt without one."""
    ids = tensors["input_ids"]
    if tensors.get("attention_mask") is not None or pad is None or pad in eos:
        return tensors
    mask = ids != pad
    fits = bool(mask[:, -1].all()) and not bool(mask.all())
    return {**tensors, "attention_mask": mask.long()} if fits else tensors


def padded(rows: list[tuple[int, ...]], pad: int | None) -> Tensor:
    """Rows of unequal length as one int64 table, padded behind."""
    length = max(len(row) for row in rows)
    if pad is None and any(len(row) < length for row in rows):
        raise ConfigError("generate: rows end at different lengths; give pad_token_id")
    table = torch.full((len(rows), length), 0 if pad is None else pad, dtype=torch.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return table
