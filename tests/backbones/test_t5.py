"""T5 and Flan-T5 against transformers with every option of their config, all weights random."""

from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.backbones import t5
from polymodal.backbones.encoder_decoder import EncoderDecoder, shifted_right
from polymodal.check import randomise
from polymodal.errors import ConfigError, PromptError
from polymodal.models.encoder_decoder_lm import EncoderDecoderLM
from polymodal.nn.mask import MaskSpec
from polymodal.nn.relative import RelativePositionsConfig
from polymodal.weights.load import load_into

transformers = pytest.importorskip("transformers")

TINY = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4, "vocab_size": 70,
        "decoder_start_token_id": 0}  # fmt: skip
OPTIONS: list[dict[str, Any]] = [
    {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "d_kv": 5, "num_decoder_layers": 3},
    {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "d_kv": 12, "num_layers": 1},
    {"feed_forward_proj": "gated-silu", "num_decoder_layers": 1, "layer_norm_epsilon": 1e-3, "d_model": 33},
]


def pair(options: dict[str, Any], untied: bool) -> tuple[Any, EncoderDecoder]:
    oracle = transformers.T5ForConditionalGeneration(transformers.T5Config(**{**TINY, **options})).eval()
    if untied:
        oracle.lm_head.weight = torch.nn.Parameter(oracle.lm_head.weight.detach().clone())
    randomise.fill(oracle)
    config = t5.parse_config(oracle.config.to_dict())
    model = config.build().eval()
    tensors = oracle.state_dict()
    tables = t5.hf_keys(config)
    if not untied:
        del tensors["lm_head.weight"]
    load_into(model, tensors, tables[0] if untied or config.tied else tables[1])
    return oracle, model


def logits(model: EncoderDecoder, ids: Tensor, mask: Tensor, answer: Tensor) -> Tensor:
    return model.head(model(model.embed(answer), context=model.encode(model.embed(ids), mask)))


@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_against_transformers(options: dict[str, Any]) -> None:
    oracle, model = pair(options, untied=options.get("tie_word_embeddings") is False)
    ids, answer = randomise.ids("ids", (2, 30), 2, 70), randomise.ids("answer", (2, 20), 2, 70)
    mask = torch.ones(2, 30, dtype=torch.int64)
    mask[1, :4] = 0
    mask[1, 26:] = 0
    expected = oracle(input_ids=ids, attention_mask=mask, decoder_input_ids=answer).logits
    assert (logits(model, ids, mask, answer) - expected).abs().max() <= 1e-4
    source = model.encode(model.embed(ids), mask)
    cache = model.new_cache(2, 25)
    steps = []
    for piece in answer.split([3, 1, 1, 15], 1):
        seen = MaskSpec(attention_mask=torch.ones(2, cache.length + piece.shape[1]))
        steps.append(model.head(model(model.embed(piece), mask=seen, context=source, cache=cache)))
    assert (torch.cat(steps, 1) - expected).abs().max() <= 1e-4
    labels = answer.clone()
    labels[0, -3:] = -100
    expected = oracle(input_ids=ids, attention_mask=mask, labels=labels)
    assert (logits(model, ids, mask, shifted_right(labels, 0, 0)) - expected.logits).abs().max() <= 1e-4
    output = EncoderDecoderLM({}, {}, model, {})(input_ids=ids, attention_mask=mask, labels=labels)
    assert abs(output.loss - expected.loss) <= 1e-4


@torch.no_grad()
def test_untied_options_saved_tied() -> None:
    oracle, model = pair({"tie_word_embeddings": False}, untied=False)
    ids, answer = randomise.ids("ids", (1, 6), 2, 70), randomise.ids("answer", (1, 5), 2, 70)
    expected = oracle(input_ids=ids, decoder_input_ids=answer).logits
    assert (logits(model, ids, torch.ones_like(ids), answer) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets(bidirectional: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    for buckets, far in ((32, 128), (7, 9), (20, 300)):
        ours = RelativePositionsConfig(heads=1, bidirectional=bidirectional, buckets=buckets, max_distance=far).build()
        distance = torch.arange(-700, 700)
        theirs = T5Attention._relative_position_bucket(distance, bidirectional, buckets, far)
        assert torch.equal(ours.config.bucket(distance), theirs)


@pytest.mark.parametrize(("shape", "count"), [("T5_SMALL", 60_506_624), ("FLAN_T5_XL", 2_849_757_184)])
def test_published_sizes(shape: str, count: int) -> None:
    with torch.device("meta"):
        model = getattr(t5, shape).config().build()
    assert sum(p.numel() for p in model.parameters()) == count


def test_refused() -> None:
    with pytest.raises(ConfigError, match="feed_forward_proj"):
        t5.parse_config({"feed_forward_proj": "wide-gelu"})
    with pytest.raises(ConfigError, match="buckets"):
        RelativePositionsConfig(heads=1, bidirectional=True, buckets=2)
    model = t5.parse_config(TINY).build()
    with pytest.raises(PromptError, match="encode"):
        model(model.embed(torch.ones(1, 2, dtype=torch.int64)))
