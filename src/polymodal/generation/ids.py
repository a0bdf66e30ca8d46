"""Generation from a batch of tensors, as ids: what published `generate` returns, whatever the shape of model.

tensors, request -> the model's own way of writing -> ids [B, prompt + new], the prompt in front, padding behind
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError
from polymodal.generation import masked_writing, vision_text
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.encoder_decoder_lm import EncoderDecoderLM
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.protocols import rule_of
from polymodal.models.vision_encoder_decoder import VisionEncoderDecoder


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of `generate_ids` beside the tensors.

    eos: ids that end an answer.  pad: fills rows that end early.  max_length, min_length: of prompt and answer
    together; they replace the lengths of `options`.  longest: a bound of both that only shortens.  sequences: answers
    to each row.  decoder_start: the id that an encoder-decoder starts from, where it is not its own.  tokenizer: finds
    stop strings.
    """

    options: SamplingOptions
    eos: tuple[int, ...] = ()
    pad: int | None = None
    max_length: int | None = None
    min_length: int | None = None
    longest: int | None = None
    sequences: int = 1
    decoder_start: int | None = None
    tokenizer: Tokenizer | None = None

    def options_after(self, width: int) -> SamplingOptions:
        """The options for a prompt of `width` ids, padding included.  Raises ConfigError when that is the limit."""
        most, rules = self.options.max_tokens, self.options.rules
        if self.max_length is not None:
            most = self.max_length - width
        elif self.longest is not None:
            most = min(most, self.longest - width)
        if most < 1:
            length = self.longest if self.max_length is None else self.max_length
            raise ConfigError(
                f"generate: max_length={length} ends in a prompt of {width} tokens; raise it, or give max_new_tokens"
            )
        if width > 1:  # published generation forces the first id only of an answer that starts from a single one
            rules = replace(rules, forced_bos_token_id=None)
        least = self.options.min_tokens if self.min_length is None else max(self.min_length - width, 0)
        return replace(self.options, max_tokens=most, min_tokens=least, rules=rules)


def can_generate(model: nn.Module) -> bool:
    """Whether `generate_ids` takes the model."""
    return isinstance(model, MultimodalLM | VisionEncoderDecoder) or masked_writing.can_write(model)


def generate_ids(model: nn.Module, tensors: Mapping[str, Any], request: Request) -> Tensor:
    """ids [B * sequences, P + new]: the prompt (of an encoder-decoder what the decoder reads first) and the answer.

    Raises: ConfigError for a model that does not generate or an input that it does not know.
    """
    eos, pad, sequences = request.eos, request.pad, request.sequences
    # Published beam search takes a padding id of 0 for none, and fills with the first end id.
    fill = eos[0] if request.options.beams > 1 and not pad and eos else pad
    constraints = DecodingConstraints(
        tokenizer=request.tokenizer, eos=frozenset(eos), placeholders=True, allow_past_context=True,
        allowed=rule_of(model) if request.options.beams == 1 else None,
    )  # fmt: skip
    if masked_writing.can_write(model):
        return _by_masks(model, tensors, request)
    if isinstance(model, VisionEncoderDecoder):
        options = request.options_after(vision_text.prompt_width(model, tensors))
        prompt, answers = vision_text.continue_prompt(model, tensors, options, constraints, sequences)
        return _joined(prompt, [answer.ids for answer in answers], model.ids.pad if fill is None else fill)
    if not isinstance(model, MultimodalLM):
        raise ConfigError(f"{type(model).__name__} does not generate; use its logits or features")
    model.check_names(tensors)
    if isinstance(model, EncoderDecoderLM):
        batch = model.prepare_batch(_started(tensors, request.decoder_start))
        fill = 0 if fill is None else fill
        prompt = batch["input_ids"]
    else:
        batch = model.prepare_batch(_masked(tensors, frozenset(eos), pad))
        prompt = tensors.get("input_ids", batch["input_ids"])  # as given, without what a model adds for its media
    options = request.options_after(batch["input_ids"].shape[1])
    answers = generate(model, batch, options, constraints, sequences=sequences)
    return _joined(prompt, [answer.ids for answer in answers], fill)


def _by_masks(model: Any, tensors: Mapping[str, Any], request: Request) -> Tensor:
    """The begin token and the caption of each picture."""
    pixels, ids = tensors.get("pixel_values"), model.writing_ids
    if pixels is None or set(tensors) - {"pixel_values"} or request.sequences > 1:
        raise ConfigError(f"generate: this model writes one caption of each of pixel_values; found {sorted(tensors)}")
    captions = masked_writing.write(model, pixels, request.options_after(1), request.eos)
    ended = [(*words, *request.eos[:1]) for words in captions]
    return _joined(torch.full((len(pixels), 1), ids.bos, device=pixels.device), ended, ids.pad)


def _started(tensors: Mapping[str, Any], start: int | None) -> Mapping[str, Any]:
    """The tensors with `decoder_input_ids` of another start id than the model's own."""
    if start is None or tensors.get("decoder_input_ids") is not None or tensors.get("input_ids") is None:
        return tensors
    ids = tensors["input_ids"]
    return {**tensors, "decoder_input_ids": torch.full((len(ids), 1), start, dtype=torch.int64, device=ids.device)}


def _masked(tensors: Mapping[str, Any], eos: frozenset[int], pad: int | None) -> Mapping[str, Any]:
    """The tensors with the mask that published generation reads off the padding ids of a prompt without one."""
    if "input_ids" not in tensors or tensors.get("attention_mask") is not None or pad is None or pad in eos:
        return tensors
    mask = tensors["input_ids"] != pad
    return tensors if bool(mask.all()) else {**tensors, "attention_mask": mask.long()}


def _joined(prompt: Tensor, rows: Sequence[tuple[int, ...]], pad: int | None) -> Tensor:
    """The prompt with rows of unequal length behind it, int64; several for each row of the prompt."""
    length = max(len(row) for row in rows)
    if pad is None and any(len(row) < length for row in rows):
        raise ConfigError("generate: rows end at different lengths; give pad_token_id")
    table = torch.full((len(rows), length), 0 if pad is None else pad, dtype=torch.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    prompt = prompt.repeat_interleave(len(rows) // len(prompt), 0)
    return torch.cat((prompt, table.to(prompt.device)), 1)
