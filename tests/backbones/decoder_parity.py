"""Shared by the decoder tests: random tiny models of `transformers`, loaded into ours through the key tables."""

from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder, DecoderConfig
from polymodal.check.randomise import fill
from polymodal.nn.mask import MaskSpec, position_ids_from_mask
from polymodal.weights.keytable import KeyTable

TOLERANCE = 1e-4


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Every parameter gets noise of a scale at which each of them matters, norms and biases included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() > 1:
                p.copy_(noise * (1.5 / p.shape[-1] ** 0.5))
            else:
                p.mul_(0.5).add_(noise * 0.3 + 0.2)


def build_like(config: DecoderConfig, table: KeyTable, source: dict[str, Tensor]) -> Decoder:
    """Our decoder with the numbers of `source`, read strictly."""
    model = config.build().eval()
    with torch.no_grad():
        for name, tensor in table.apply(source, model):
            model.get_parameter(name).copy_(tensor)
    return model


def tiny(hf_class: Any, hf_config: Any) -> Any:
    """A randomised model of `transformers` in float32 with plain attention."""
    hf_config._attn_implementation = "eager"
    model = hf_class(hf_config).float().eval()
    randomise(model)
    return model


def logits(model: Decoder, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """One full pass."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    hidden = model(model.embed(input_ids), position_ids_from_mask(mask), MaskSpec(attention_mask=mask))
    return model.head(hidden)


def stepwise(model: Decoder, input_ids: Tensor, sizes: list[int], attention_mask: Tensor | None = None) -> Tensor:
    """The same pass in chunks of `sizes` through a cache with room to spare."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    positions = position_ids_from_mask(mask)
    cache = model.new_cache(len(input_ids), input_ids.shape[1] + 5)
    out, start = [], 0
    for size in sizes:
        end = start + size
        spec = MaskSpec(attention_mask=mask[:, :end])
        hidden = model(model.embed(input_ids[:, start:end]), positions[:, start:end], spec, cache=cache)
        out.append(model.head(hidden))
        start = end
    assert start == input_ids.shape[1] == cache.length
    return torch.cat(out, 1)


IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [0, 0, 0, 3, 4, 5, 6, 7]])
MASK = torch.tensor([[1] * 8, [0] * 3 + [1] * 5])


@torch.no_grad()
def assert_equals_library(family: Any, prefix: str, options: dict[str, Any]) -> None:
    """A family of `backbones` against `transformers`' classes of that prefix: config, logits, steps with a cache."""
    import transformers

    theirs = tiny(getattr(transformers, f"{prefix}ForCausalLM"), getattr(transformers, f"{prefix}Config")(**options))
    fill(theirs)
    config = family.parse_config(theirs.config.to_dict())
    assert family.parse_config(options) == config  # absent keys take the library's defaults
    ours = build_like(config, family.hf_keys(config), dict(theirs.state_dict()))
    expected = theirs(input_ids=IDS, attention_mask=MASK).logits
    real = MASK.bool()
    torch.testing.assert_close(logits(ours, IDS, MASK)[real], expected[real], atol=TOLERANCE, rtol=0)
    steps = stepwise(ours, IDS, [5, 1, 1, 1], MASK)
    torch.testing.assert_close(steps[real], expected[real], atol=TOLERANCE, rtol=0)
