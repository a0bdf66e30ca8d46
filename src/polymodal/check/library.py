"""The doors to the transformers library (extra `parity`): all that evidence reads of it, it reads through these.

    quiet()                            the module, without its warnings
    built(transformers, name, config)  a model of the class `name`, random in every weight
    logits(oracle, inputs)             what a model returns by that name; field(*names) reads it by another
    output(outputs, *names)            a field of what was returned
    states(outputs), layer(...)        last hidden states; the hidden states behind one layer
    features(oracle, modality, ...)    what `get_image_features` and its like give
    part(oracle, *paths)               a module inside a model; caught(...): what it handed out on the way
    embedded, greedy, generate         token embeddings; ids
    settings, saved, names_on_disk     a config as a dict; a folder as it writes it; its names there

The library changes in every release what its classes hand out and where it stands.  Such a change is mended here, for
all evidence at once; tests/style finds evidence that goes round.  What is read holds for 5.23 and 5.24.  The paths of
modules are the names of published checkpoints and change least: where an output has come and gone (IDEFICS's
`image_hidden_states`), what a module hands out is caught instead.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from polymodal.check import randomise
from polymodal.check.record import Tensors

STEPS = 16
Library = Any  # the transformers module


@contextlib.contextmanager
def quiet() -> Iterator[Library]:
    """The transformers module with its progress bars and warnings off."""
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):
        yield transformers


def built(transformers: Library, name: str, config: Any) -> Any:
    """The class `name` with this config, every parameter and stored buffer random, in eval mode."""
    return filled(getattr(transformers, name)(config).eval())


def filled(oracle: nn.Module) -> nn.Module:
    """Every parameter and stored buffer random (randomise.py)."""
    randomise.fill(oracle)
    return oracle


def output(outputs: Any, *names: str) -> Any:
    """The first of these fields that the outputs have and that is not None; AttributeError says what is there."""
    for name in names:
        if (found := getattr(outputs, name, None)) is not None:
            return found
    there = outputs if isinstance(outputs, Mapping) else getattr(outputs, "__dict__", ())
    raise AttributeError(
        f"{type(outputs).__name__} of transformers: expected {' or '.join(names)}, found "
        f"{', '.join(there) or 'no named fields'}; mend the evidence or its door, check/library.py"
    )


def logits(oracle: Any, inputs: Tensors) -> Tensor:
    """What the model gives by that name for these inputs."""
    return output(oracle(**inputs), "logits")


def field(*names: str) -> Callable[[Any, Tensors], Tensor]:
    """As `logits`, by the first of these names: field("itm_score")(oracle, inputs)."""
    return lambda oracle, inputs: output(oracle(**inputs), *names)


def states(outputs: Any) -> Tensor:
    """The last hidden states of what an encoder returned, [N, T, D]; a tensor is taken as it is."""
    return outputs if isinstance(outputs, Tensor) else output(outputs, "last_hidden_state")


def layer(encoder: Any, index: int, *inputs: Tensor) -> Tensor:
    """The hidden states of an encoder in front of block `index`, [N, T, D]; -1: behind the last, without its norm."""
    return output(encoder(*inputs, output_hidden_states=True), "hidden_states")[index]


def features(oracle: Any, modality: str, **inputs: Tensor) -> Any:
    """What `get_{modality}_features` of the model, or of the one inside it, hands to the text or the joint space:
    a tensor, or one for each item.  The outputs keep it as the pooled one, where they pool, else as the last states."""
    method = f"get_{modality}_features"
    owner = oracle if hasattr(oracle, method) else part(oracle, "model")
    return output(getattr(owner, method)(**inputs), "pooler_output", "last_hidden_state")


def part(oracle: nn.Module, *paths: str) -> Any:
    """The module at the first of these paths, as "model.vision_model".  Raises AttributeError where there is none."""
    for path in paths:
        with contextlib.suppress(AttributeError):
            return oracle.get_submodule(path)
    raise AttributeError(
        f"{type(oracle).__name__} of transformers: expected a module {' or '.join(paths)}, found "
        f"{', '.join(name for name, _ in oracle.named_children())}; mend the evidence or its door, check/library.py"
    )


def caught(oracle: nn.Module, inputs: Tensors, *paths: str) -> Any:
    """What the module at the first of these paths hands out in its first call while the model runs on the inputs."""
    found: list[Any] = []
    with part(oracle, *paths).register_forward_hook(lambda module, args, outputs: found.append(outputs)):
        oracle(**inputs)
    return found[0]


def embedded(model: Any, ids: Tensor) -> Tensor:
    """The token embeddings of a language model, [B, T, D]."""
    return model.get_input_embeddings()(ids)


def greedy(oracle: Any, prompt: Tensors, options: Mapping[str, Any]) -> Tensor:
    """Ids of 16 greedy steps; it never ends early, so that all steps are compared."""
    for inner in oracle.modules():  # some systems generate with the settings of an inner model
        if getattr(inner, "generation_config", None) is not None:
            inner.generation_config.eos_token_id = None
    return generate(oracle, prompt, {"pad_token_id": 0, **options})


def generate(oracle: Any, prompt: Tensors, options: Mapping[str, Any]) -> Tensor:
    """Ids of up to 16 greedy steps with the model's own end and padding ids, [B, T + 16]: the prompt's ids in front,
    where it has ids."""
    return oracle.generate(**prompt, max_new_tokens=STEPS, do_sample=False, **options)


def settings(config: Any) -> dict[str, Any]:
    """A config object as the dict of its config.json."""
    return config.to_dict()


def saved(oracle: Any, folder: Path) -> None:
    """Weights and config.json as the library writes them."""
    oracle.save_pretrained(folder)


def names_on_disk(model: Any) -> dict[str, Tensor]:
    """The state dict under the names that `save_pretrained` writes, tied tensors once."""
    state = model.state_dict()
    first: dict[int, str] = {}
    for name, x in model.state_dict(keep_vars=True).items():
        first.setdefault(id(x), name)
    state = {name: x for name, x in state.items() if name in set(first.values())}
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, state)


def language_model(folder: Path, dtype: Any) -> Any:
    """A published folder of a causal language model, for inference; None for any other."""
    with quiet() as transformers:
        config = transformers.AutoConfig.from_pretrained(folder)
        if not any(name.endswith("ForCausalLM") for name in config.architectures or ()):
            return None
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
