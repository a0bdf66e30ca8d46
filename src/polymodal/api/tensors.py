"""Checks of the tensors that a user gives, so that a mistake is one line and not an error deep in a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymodal.checkpoints.field_kinds import wrong_field
from polymodal.errors import ConfigError, NotFinite, PromptError
from polymodal.models.encoder_decoder_lm import EncoderDecoderLM
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.output import Output
from polymodal.models.protocols import MakesInputIds

if TYPE_CHECKING:
    from polymodal.api.model import Model

LOSS_INPUTS = ("labels", "return_loss", "token_weights", "z_loss_weight")


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
        raise PromptError(f"input_ids: {first} is outside the vocabulary of {size} ids; use the model's own tokenizer")
    pixels, sizes = tensors.get("pixel_values"), tensors.get("image_sizes")
    if pixels is not None and sizes is not None and len(pixels) != len(sizes):
        raise PromptError(f"image_sizes: expected one of each of the {len(pixels)} pictures, found {len(sizes)}")


def check_no_loss(module: Any, tensors: Mapping[str, Any], verb: str) -> None:
    """Raises ConfigError for arguments of a loss, which `verb` would swallow.

    A processor's batch holds labels in any case; an encoder-decoder reads them where its decoder has no other input.
    """
    of_loss = [name for name in LOSS_INPUTS if tensors.get(name) is not None and tensors[name] is not False]
    batch_of_ours = tensors.get("item_counts") is not None
    decoder_input = isinstance(module, EncoderDecoderLM) and tensors.get("decoder_input_ids") is None
    if of_loss == ["labels"] and (batch_of_ours or (decoder_input and verb == "logits")):
        return
    if of_loss:
        raise ConfigError(f"{verb}: {of_loss[0]} is for a loss, which is model(**batch).loss; leave it out here")


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
        raise PromptError("input_ids: an id is outside the vocabulary; use the model's own tokenizer") from problem


@contextmanager
def answering(model: Model) -> Iterator[None]:
    """Around one use of a model: what is not our defect is one line.

    PromptError: an id outside a table.  NotFinite: which weights make the outputs NaN.  ConfigError: an error deep in a
    model whose config has a field of a wrong kind, which is named.
    """
    try:
        with within_tables():
            yield
    except NotFinite as problem:
        raise NotFinite(f"{model.name}: {problem}: {origin_of_nan(model.module)}") from problem
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError) as problem:
        field = None if model.path is None else wrong_field(model.variant.config or {})
        if field is None:
            raise
        raise ConfigError(f"{model.path}: config.json: {field}") from problem


def require_finite(values: Tensor, what: str) -> Tensor:
    """The values; raises NotFinite unless all are numbers."""
    if not bool(torch.isfinite(values).all()):
        raise NotFinite(f"the model's {what} are NaN or infinite")
    return values


def origin_of_nan(module: torch.nn.Module) -> str:
    """In words, the first weights that hold NaN or infinite numbers, or what else there can be."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"the weights {name!r} hold such numbers; fetch them again"
    return "all weights are numbers, so a setting of the config (an eps, a scale) or the dtype makes them; try float32"
