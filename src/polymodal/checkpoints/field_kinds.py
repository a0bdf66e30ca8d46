"""Which field of a config is of the wrong kind, by the words that published configs call their fields.

    {"text_config": {"hidden_size": "abc"}}  ->  "text_config.hidden_size: expected a whole number, found 'abc'"

It is asked only after a config could not be understood, so that the message names the field; no config is refused
for what is said here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from polymodal.fields import shown
from polymodal.weights.config_limits import NAMES

SIDES = frozenset({"height", "width", "shortest_edge", "longest_edge"})
# Methods on features have a value for each modality, or for the head of each.
MODALITIES = frozenset(name + end for name in ("text", "audio", "vision", "fusion") for end in ("", "_head"))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _each(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The same of every entry of a list or a table, since sizes may be given for each layer, side or modality."""

    def checked(value: Any) -> bool:
        if isinstance(value, Mapping):
            known = value.keys() <= SIDES or value.keys() <= MODALITIES
            return bool(value) and known and all(map(checked, value.values()))
        if isinstance(value, list | tuple):
            return all(map(checked, value))
        return check(value)

    return checked


# Words of a name, what stands there, how it is told; the first that fits counts.
KINDS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    (r"_config$|^id2label$|^label2id$|^rope_scaling$|^rope_parameters$", "a table", lambda x: isinstance(x, Mapping)),
    (r"^architectures$", "a list of names",
     lambda x: isinstance(x, list | tuple) and all(isinstance(each, str) for each in x)),
    (r"(^|_)(uses?|is|do|tie|share|add|with|return|output|has|qkv|scale|dynamic|learned)_|bias$|aspect_ratio$|cosine$|"
     r"^pruned_heads$|^resblock$", "anything", lambda x: True),
    (r"eps$|epsilon$|theta$|dropout|drop_path|ratio$|factor$|_std$|_range$|_scale|temperature|penalty|top_p|fraction",
     "a number", _each(_is_number)),
    (r"_type$|_act$|^act_layer$|activation|dtype$|_path$|_strategy$|^template$", "a text",
     lambda x: isinstance(x, str)),
    (r"^vocab_size$", "a whole number of 0 or more, or -1 as LLaMA's own files say",
     _each(lambda x: _is_whole(x) and x >= -1)),
    (r"(^|_)ids?$|_index$|select_layer$|feature_layer$|length$", "a whole number", _each(_is_whole)),
    (r"^(num|n|max|min)_|(size|dims?|layers?|heads?|width|depths?|rank|num_positions|embeddings|layers|channels|"
     r"latents|queries|tokens?|buckets|resolution|blocks?|labels?|stride|d_model|d_ff|d_kv|top_k)$",
     "a whole number of 0 or more", _each(lambda x: _is_whole(x) and x >= 0)),
)  # fmt: skip


def wrong_field(config: Mapping[str, Any], unset: bool = False) -> str | None:
    """The first field whose value is not of the kind that its name says.  unset: whether `null` is wrong, too."""
    return next((words for value, words in _wrong(config, "") if unset or value is not None), None)


def _wrong(config: Mapping[str, Any], inside: str) -> Iterator[tuple[Any, str]]:
    for name, value in config.items():
        path, judged = f"{inside}{name}", False
        for words, kind, fits in KINDS:
            if re.search(words, str(name)):
                if not fits(value):
                    yield value, f"{path:.80}: expected {kind}, found {_found(value)}"
                else:
                    judged = "number" in kind  # a table of sides or modalities: by its own name, not by theirs
                break
        if isinstance(value, Mapping) and not judged and not NAMES.search(str(name)):
            yield from _wrong(value, f"{path}.")


def _found(value: Any) -> str:
    """A value in a message: itself where it is short."""
    return repr(value) if len(repr(value)) <= 40 else shown(value)
