"""Generation from a batch of tensors, as ids: what published `generate` returns, whatever the shape of model.

tensors, options -> the model's own way of writing -> ids [B, prompt + new], the prompt in front, padding behind
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.generation import vision_text
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.encoder_decoder_lm import EncoderDecoderLM
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.vision_encoder_decoder import VisionEncoderDecoder


def can_generate(model: nn.Module) -> bool:
    """Whether `generate_ids` takes the model."""
    return isinstance(model, MultimodalLM | VisionEncoderDecoder)


def generate_ids(
    model: nn.Module, tensors: Mapping[str, Any], options: SamplingOptions, eos: Sequence[int], pad: int | None
) -> Tensor:
    """ids [B, P + new]: the prompt (of an encoder-decoder what the decoder reads first) and the answer; `pad` fills
    rows that end early.

    Raises: ConfigError for a model that does not generate or an input that it does not know.
    """
    # Published beam search takes a padding id of 0 for none, and fills with the first end id.
    fill = eos[0] if options.beams > 1 and not pad and eos else pad
    constraints = DecodingConstraints(eos=frozenset(eos), placeholders=True, allow_past_context=True)
    if isinstance(model, VisionEncoderDecoder):
        prompt, answers = vision_text.continue_prompt(model, tensors, options, constraints)
        return _joined(prompt, [answer.ids for answer in answers], model.ids.pad if fill is None else fill)
    if not isinstance(model, MultimodalLM):
        raise ConfigError(f"{type(model).__name__} does not generate; use its logits or features")
    model.check_names(tensors)
    if isinstance(model, EncoderDecoderLM):
        batch = model.prepare_batch(tensors)
        answers = generate(model, batch, options, constraints)
        return _joined(batch["input_ids"], [answer.ids for answer in answers], 0 if fill is None else fill)
    batch = model.prepare_batch(_masked(tensors, frozenset(eos), pad))
    answers = generate(model, batch, options, constraints)
    return _joined(tensors.get("input_ids", batch["input_ids"]), [answer.ids for answer in answers], fill)


def _masked(tensors: Mapping[str, Any], eos: frozenset[int], pad: int | None) -> Mapping[str, Any]:
    """The tensors with the mask that published generation reads off the padding ids of a prompt without one."""
    if "input_ids" not in tensors or tensors.get("attention_mask") is not None or pad is None or pad in eos:
        return tensors
    mask = tensors["input_ids"] != pad
    return tensors if bool(mask.all()) else {**tensors, "attention_mask": mask.long()}


def _joined(prompt: Tensor, rows: list[tuple[int, ...]], pad: int | None) -> Tensor:
    """The prompt with rows of unequal length behind it, int64."""
    length = max(len(row) for row in rows)
    if pad is None and any(len(row) < length for row in rows):
        raise ConfigError("generate: rows end at different lengths; give pad_token_id")
    table = torch.full((len(rows), length), 0 if pad is None else pad, dtype=torch.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return torch.cat((prompt, table.to(prompt.device)), 1)
