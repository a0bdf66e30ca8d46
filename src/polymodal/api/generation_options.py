"""Options of generation under the names of the transformers library: of a call and of generation_config.json.

    generate(**tensors, **options), generation_config.json -> split_options -> tensors, Request

Each option of the library is followed, or has no effect on the ids at any value, or is refused by name unless its value
does nothing.  Other names in a generation_config.json are a publisher's own, which the library ignores too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError
from polymodal.generation.ids import Request
from polymodal.generation.logit_rules import is_whole
from polymodal.generation.sampling import SamplingOptions

OPTIONS = {
    "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "temperature": "temperature", "top_k": "top_k",
    "top_p": "top_p", "min_p": "min_p", "repetition_penalty": "repetition_penalty", "num_beams": "beams",
    "length_penalty": "length_penalty", "early_stopping": "early_stopping", "stop_strings": "stop", "seed": "seed",
}  # fmt: skip
"""The library's name -> the field of SamplingOptions."""
RULES = (
    "no_repeat_ngram_size", "bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens",
    "forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty", "remove_invalid_values",
    "typical_p", "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip
"""Fields of LogitRules."""
OTHERS = ("do_sample", "max_length", "min_length", "num_return_sequences", "eos_token_id", "pad_token_id",
          "decoder_start_token_id")  # fmt: skip
"""Followed, each by a line of its own."""
NO_EFFECT = frozenset({
    "use_cache", "cache_config", "max_cache_len", "compile_config", "disable_compile", "prefill_chunk_size",
    "continuous_batching_config", "bos_token_id", "transformers_version", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_early_exit",
    "assistant_ensemble_weight", "assistant_lookbehind", "target_lookbehind", "max_matching_ngram_size",
    "speculation_type",
})  # fmt: skip
"""Of caches, compilation and assistant models, which change the time and not the ids."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "guidance_scale": (1,), "encoder_repetition_penalty": (1,), "encoder_no_repeat_ngram_size": (0,), "top_h": (),
    "penalty_alpha": (0,), "dola_layers": (), "constraints": (), "force_words_ids": (), "diversity_penalty": (0,),
    "num_beam_groups": (1,), "watermarking_config": (), "prompt_lookup_num_tokens": (), "is_assistant": (False,),
    "use_mtp": (False,), "token_healing": (False,), "low_memory": (False,), "max_time": (),
    "renormalize_logits": (False,),
    "cache_implementation": ("dynamic", "static", "hybrid", "sliding_window", "offloaded", "offloaded_static"),
    "return_dict_in_generate": (False,), "output_scores": (False,), "output_logits": (False,),
    "output_attentions": (False,), "output_hidden_states": (False,), "logits_processor": (), "stopping_criteria": (),
    "generation_config": (), "streamer": (), "assistant_model": (), "prefix_allowed_tokens_fn": (), "tokenizer": (),
    "negative_prompt_ids": (), "negative_prompt_attention_mask": (), "synced_gpus": (False,), "custom_generate": (),
}  # fmt: skip
"""Values that do nothing (None never does); others are refused by name."""
MAX_ANSWERS = 64  # beams or answers that a file may ask for (5 in published ones)
DEFAULT = SamplingOptions(max_tokens=20)  # the library's own length of an answer
SAMPLING = {"temperature": 1.0, "top_k": 50}  # what the library samples with when nothing else is set
RANDOM = frozenset({"temperature", "top_k", "top_p", "min_p"})  # without effect on greedy search


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the files of a folder say about generation.

    ends: the ids that end an answer, and the one that pads it.  settings: its generation_config.json.  longest: its
    max_position_embeddings, which bounds an answer whose length nothing sets.  tokenizer: finds stop strings.
    """

    ends: tuple[Collection[int], int | None] = ((), None)
    settings: Mapping[str, Any] | None = None
    longest: int | None = None
    tokenizer: Tokenizer | None = None


def split_options(
    given: Mapping[str, Any], options: SamplingOptions | None, published: Published
) -> tuple[dict[str, Any], Request]:
    """One call's tensors, and the request that its options and the folder's make up.

    The folder's settings hold where the call is silent and gives no `options`.  Without a padding id the first end id
    pads, as published generation has it.  Raises ConfigError for options that contradict or are not supported.
    """
    names = {*OPTIONS, *RULES, *OTHERS, *NO_EFFECT, *NEUTRAL}
    call = {name: value for name, value in given.items() if name in names}
    tensors = {name: value for name, value in given.items() if name not in names}
    file = dict(published.settings or {}) if options is None else {}
    _refuse(call, "generate", "leave it out")
    _refuse(file, "generation_config.json", "give options=SamplingOptions(...) to write without it")
    _bound(file)
    chosen = _options(call, file, options or DEFAULT)
    both = {**_set(file), **_set(call)}
    lengths = {name: _length(both[name], name) for name in ("max_length", "min_length") if name in both}
    if "max_new_tokens" in both:
        lengths.pop("max_length", None)
    if "min_new_tokens" in both:
        lengths.pop("min_length", None)
    free = not {"max_new_tokens", "max_length"} & both.keys() and options is None
    eos, pad = _ends(call, published)
    return tensors, Request(
        options=chosen,
        eos=eos,
        pad=pad,
        longest=published.longest if free else None,
        sequences=_sequences(both.get("num_return_sequences", 1), chosen),
        decoder_start=both.get("decoder_start_token_id"),
        tokenizer=published.tokenizer if chosen.stop else None,
        **lengths,
    )


def _options(call: Mapping[str, Any], file: Mapping[str, Any], options: SamplingOptions) -> SamplingOptions:
    """`options` with what call and file set."""
    sample = call.get("do_sample")
    if sample is not None and not isinstance(sample, bool):
        raise ConfigError(f"generate: do_sample: expected True or False, found {sample!r}")
    changes = {ours: call[name] for name, ours in OPTIONS.items() if call.get(name) is not None}
    held = {ours: file[name] for name, ours in OPTIONS.items() if file.get(name) is not None}
    if sample is None and "temperature" not in changes:
        sample = file.get("do_sample") or None
    if not sample:
        held = {name: value for name, value in held.items() if name not in RANDOM}
    if sample is False:
        changes["temperature"] = 0.0
    elif sample:
        changes = {**SAMPLING, **held, **changes}
    elif "temperature" not in changes and {"top_k", "top_p", "min_p"} & changes.keys():
        raise ConfigError("generate: top_k, top_p and min_p need do_sample=True or a temperature")
    rules = {name: both[name] for both in (_set(file), _set(call)) for name in RULES if name in both}
    with _named_as_published():
        chosen = replace(options, **{**held, **changes})
        return replace(chosen, rules=replace(chosen.rules, **rules)) if rules else chosen


@contextmanager
def _named_as_published() -> Iterator[None]:
    """An option that is out of range is named as it was given."""
    try:
        yield
    except ConfigError as problem:
        words = str(problem)
        for published, ours in OPTIONS.items():
            words = words.replace(f"SamplingOptions.{ours}:", f"generate: {published}:")
        raise ConfigError(words.replace("LogitRules.", "generate: ")) from problem


def _set(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _length(value: Any, name: str) -> int:
    if not is_whole(value) or value < 0:
        raise ConfigError(f"generate: {name}: expected a number of tokens, found {value!r}")
    return int(value)


def _sequences(value: Any, options: SamplingOptions) -> int:
    if not is_whole(value) or value < 1:
        raise ConfigError(f"generate: num_return_sequences: expected 1 or more, found {value!r}")
    if value > 1 and options.beams == 1 and options.greedy:
        raise ConfigError(
            f"generate: num_return_sequences={value} answers would all be the same; give do_sample=True or num_beams"
        )
    if value > options.beams > 1:
        raise ConfigError(f"generate: num_return_sequences={value} needs num_beams of as many, found {options.beams}")
    return int(value)


def _ends(call: Mapping[str, Any], published: Published) -> tuple[tuple[int, ...], int | None]:
    """The ids that end an answer and the one that pads it; -1 and None are no id."""
    eos, pad = tuple(published.ends[0]), published.ends[1]
    if "eos_token_id" in call:
        eos = _ids(call["eos_token_id"], "eos_token_id")
    if "pad_token_id" in call:
        pad = next(iter(_ids(call["pad_token_id"], "pad_token_id")), None)
    return eos, next(iter(eos), None) if pad is None else pad


def _ids(value: Any, name: str) -> tuple[int, ...]:
    ids = value.tolist() if isinstance(value, Tensor) else value
    ids = [] if ids is None else list(ids) if isinstance(ids, list | tuple | set | frozenset) else [ids]
    if not all(is_whole(each) for each in ids):
        raise ConfigError(f"generate: {name}: expected token ids, found {value!r}")
    return tuple(int(each) for each in ids)


def _bound(file: Mapping[str, Any]) -> None:
    """Raises ConfigError where a file asks for more answers at once than any published one; a call may."""
    for name in ("num_beams", "num_return_sequences"):
        if (value := file.get(name)) is not None and not (is_whole(value) and 0 < value <= MAX_ANSWERS):
            raise ConfigError(f"generation_config.json: {name}: expected 1 to {MAX_ANSWERS}, found {value!r:.80}; "
                              f"give {name}=... in the call for another number")  # fmt: skip


def _refuse(options: Mapping[str, Any], source: str, instead: str) -> None:
    for name in sorted(NEUTRAL.keys() & options.keys()):
        if options[name] is not None and options[name] not in NEUTRAL[name]:
            raise ConfigError(f"{source}: {name}={options[name]!r} is not supported; {instead}")
