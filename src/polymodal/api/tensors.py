"""Generation from tensors, under the names of the transformers library, so that scripts can swap one for the other.

tensors and options in one call -> SamplingOptions, end and padding ids -> ids [B, T + new]
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError, PromptError
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.output import Output
from polymodal.models.protocols import MakesInputIds

_NAMES = {
    "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "temperature": "temperature", "top_k": "top_k",
    "top_p": "top_p", "min_p": "min_p", "repetition_penalty": "repetition_penalty", "num_beams": "beams",
    "length_penalty": "length_penalty", "seed": "seed",
}  # fmt: skip
# Options of the library that do nothing at these values; at others they are refused by name.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_cache": (True, False), "return_dict_in_generate": (False,), "output_scores": (False,),
    "output_logits": (False,), "output_attentions": (False,), "output_hidden_states": (False,),
    "num_return_sequences": (1,), "early_stopping": (False,), "no_repeat_ngram_size": (0,), "min_length": (0,),
    "typical_p": (1.0,), "renormalize_logits": (False,), "bad_words_ids": (), "suppress_tokens": (),
    "begin_suppress_tokens": (), "forced_bos_token_id": (), "forced_eos_token_id": (), "penalty_alpha": (),
    "encoder_no_repeat_ngram_size": (0,), "diversity_penalty": (0.0,), "num_beam_groups": (1,), "max_time": (),
    "logits_processor": (), "stopping_criteria": (), "generation_config": (), "streamer": (), "assistant_model": (),
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
    if rest.get("max_length") is not None and "max_tokens" not in changes and "input_ids" in rest:
        changes["max_tokens"] = rest["max_length"] - rest["input_ids"].shape[1]
    rest.pop("max_length", None)
    eos, pad = ends
    if "eos_token_id" in rest:
        named = rest.pop("eos_token_id")
        named = named.tolist() if isinstance(named, Tensor) else named
        eos = tuple(named) if isinstance(named, list | tuple | set) else () if named is None else (named,)
    pad = rest.pop("pad_token_id", pad)
    if pad is None:
        pad = next(iter(eos), None)
    _refuse(said, "generation_config.json", "give options=SamplingOptions(...) to write without it")
    _refuse(rest, "generate", "leave it out")
    rest = {name: value for name, value in rest.items() if name not in _NEUTRAL}
    return rest, replace(options or _DEFAULT, **changes), tuple(eos), pad


def check_prompt(module: Any, tensors: Mapping[str, Any]) -> None:
    """Raises PromptError for a batch that a language model cannot read: no ids, of another shape, out of the table.

    A placeholder's id may lie outside of the vocabulary, as some published ones do.  ConfigError: a name nobody reads.
    """
    if not isinstance(module, MultimodalLM):
        return
    module.check_names(tensors)
    ids = tensors.get("input_ids")
    given = any(value is not None for value in tensors.values())
    if ids is None and given and isinstance(module.prepare_inputs, MakesInputIds):
        return
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point() or not ids.numel():
        found = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise PromptError(f"input_ids: expected whole numbers [B, T] with at least one token a row, found {found}")
    size = module.backbone.config.vocab_size
    wrong = (ids < 0) | (ids >= size)
    for placeholder in module.placeholders.values():
        wrong &= ids != placeholder
    mask = tensors.get("attention_mask")
    outside = len(module.placeholders) > len(module.placeholders_in_vocabulary())
    if outside and isinstance(mask, Tensor) and mask.shape == ids.shape:
        wrong &= mask.bool()  # padding is not read, and models with such placeholders may pad with any id
    if bool(wrong.any()):
        first = int(ids[wrong][0])
        raise PromptError(f"input_ids: {first} is no id of a vocabulary of {size}; use the model's own tokenizer")
    pixels, sizes = tensors.get("pixel_values"), tensors.get("image_sizes")
    if pixels is not None and sizes is not None and len(pixels) != len(sizes):
        raise PromptError(f"image_sizes: expected one of each of the {len(pixels)} pictures, found {len(sizes)}")


def logits_of(output: Output, name: str) -> Tensor:
    """The logits of what a model returned; raises PromptError where this batch gives it none."""
    if output.logits is None:
        raise PromptError(f"{name}: this batch gives no logits; they compare two modalities, of which one is missing")
    return output.logits


def left_padded(tensors: Mapping[str, Any], pad: int | None) -> dict[str, Any]:
    """The tensors, where `input_ids` are a list of rows of any lengths as int64 [B, T] with the mask of their padding.

    Raises PromptError for rows that are no whole numbers or empty, ConfigError for a mask beside such a list.
    """
    rows = tensors.get("input_ids")
    if not isinstance(rows, list | tuple):
        return dict(tensors)
    if tensors.get("attention_mask") is not None:
        raise ConfigError("generate: input_ids as a list of rows need no attention_mask; leave it out")
    try:
        found = [torch.as_tensor(row, dtype=torch.int64) for row in rows]
    except (TypeError, ValueError, RuntimeError) as problem:
        raise PromptError("input_ids: expected a tensor [B, T] or a list of rows of whole numbers") from problem
    if not found or any(row.dim() != 1 or not len(row) for row in found):
        raise PromptError("input_ids: expected rows of at least one id each, as in [[1, 2, 3], [4]]")
    longest = max(map(len, found))
    ids = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0), value=pad or 0) for row in found])
    lengths = torch.tensor([[len(row)] for row in found])
    return {**tensors, "input_ids": ids, "attention_mask": (torch.arange(longest) >= longest - lengths).long()}


@contextmanager
def within_tables() -> Iterator[None]:
    """An id that an embedding has no row for is a PromptError, whichever module holds the table."""
    try:
        yield
    except IndexError as problem:
        if str(problem) != "index out of range in self":
            raise
        raise PromptError("input_ids: an id lies outside of the vocabulary; use the model's own tokenizer") from problem


def _refuse(given: Mapping[str, Any], place: str, instead: str) -> None:
    for name in sorted(_NEUTRAL.keys() & given.keys()):
        if given[name] is not None and given[name] not in _NEUTRAL[name]:
            raise ConfigError(f"{place}: {name}={given[name]!r} is not supported; {instead}")
