"""What a step costs besides the model: one read for all rows, nothing sent, nothing asked of a value on the device."""

from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig
from polymodal.generation.generate import generate
from polymodal.generation.grammars import Grid
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.rope import RopeConfig
from tiny_models import VOCABULARY, text_model
from tiny_text import letters_tokenizer

# What makes an accelerator's queue run dry: values read by the host, and tensors made from the host's numbers.
READS = {"tolist", "item", "__bool__", "__int__", "__float__", "__index__", "numpy", "cpu", "nonzero", "unique"}
SENDS = {"tensor", "as_tensor"}


class Traffic(TorchFunctionMode):
    """Counts reads and sends."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        self.count["read"] += name in READS
        self.count["send"] += name in SENDS
        return function(*args, **(kwargs or {}))


def traffic(options, constraints, steps: int, rows: int = 3, model: MultimodalLM | None = None) -> Counter[str]:
    """Reads and sends of a whole generation of `steps` tokens for each row."""
    model = text_model(0, max_length=2048) if model is None else model
    ids = torch.randint(0, VOCABULARY, (rows, 6), generator=torch.Generator().manual_seed(1))
    rows_of = [SamplingOptions(**{**option, "max_tokens": steps}) for option in options]
    with Traffic() as found:
        generate(model, {"input_ids": ids}, rows_of, constraints)
    return found.count


def per_step(options, constraints: DecodingConstraints, rows: int = 3, model: MultimodalLM | None = None):
    """The same for one more token; what a process does once, such as trying its native library, is done before."""
    traffic(options, constraints, 2, rows, model)
    short, long = (traffic(options, constraints, steps, rows, model) for steps in (10, 30))
    return {name: (long[name] - short[name]) / 20 for name in ("read", "send")}


MIXED = [
    {"temperature": 0.7, "top_k": 5, "seed": 1, "repetition_penalty": 1.2},
    {},
    {"temperature": 1.2, "top_p": 0.9, "min_p": 0.01, "seed": 2, "min_tokens": 40},
]


@pytest.mark.parametrize(
    "options",
    [[{}] * 3, MIXED, [{**each, "logprobs": i} for i, each in enumerate(MIXED)]],
    ids=["greedy", "mixed", "p"],
)
def test_one_read_a_step_for_all_rows(options) -> None:
    assert per_step(options, DecodingConstraints(eos=frozenset({200}))) == {"read": 1, "send": 0}


def test_text_and_stop_strings_cost_no_further_read() -> None:
    constraints = DecodingConstraints(tokenizer=letters_tokenizer(), eos=frozenset())
    assert per_step([{"stop": ("never found",)}] * 3, constraints) == {"read": 1, "send": 0}


def test_a_grammar_costs_no_further_read() -> None:
    grids = [Grid(height=5, width=size, codes=torch.arange(3, 20), row_end=2, tail=(1, 0), after=0) for size in (4, 7)]
    constraints = DecodingConstraints(eos=frozenset(), allowed=grids)
    traffic([{}, MIXED[0]], constraints, 40, 2)  # a grammar makes its tensors at the first use
    assert per_step([{}, MIXED[0]], constraints, rows=2) == {"read": 1, "send": 0}


def test_beams_cost_one_read_and_one_send() -> None:
    options = [{"beams": 4, "repetition_penalty": 1.1, "min_tokens": 5}] * 3
    assert per_step(options, DecodingConstraints(eos=frozenset({200}))) == {"read": 1, "send": 1}


def decoder(**options):
    """A tiny decoder with what some families have besides."""
    block = DecoderBlockConfig(attention=AttentionConfig(width=16, heads=2), mlp=GatedMLPConfig(width=16, ffn_width=12))
    return DecoderConfig(vocab_size=VOCABULARY, width=16, blocks=(block,), max_length=256, **options).build().eval()


def test_what_families_have_besides_sends_nothing_at_a_step() -> None:
    axes = MultimodalLM({}, {}, decoder(rope=RopeConfig(head_dim=8, sections=(2, 1, 1))), {})
    axes.prepare_inputs = lambda batch: {"position_ids": torch.arange(6).expand(3, len(batch["input_ids"]), 6)}
    models = [
        axes,
        MultimodalLM({}, {}, decoder(alibi=(0.5, 0.25)), {}),
        DiscreteTokenLM({}, {}, decoder(rope=RopeConfig(head_dim=8)), {}, suppressed=(5, 9)),
    ]
    for model in models:
        traffic([{}] * 3, DecodingConstraints(), 3, model=model)  # tables are made at the first use
        assert per_step([{}] * 3, DecodingConstraints(), model=model) == {"read": 1, "send": 0}


def test_logprobs_are_computed_only_when_asked(monkeypatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("nobody asked")

    model, batch = text_model(0), {"input_ids": torch.ones(2, 4, dtype=torch.int64)}
    monkeypatch.setattr(torch, "log_softmax", refuse)
    assert generate(model, batch, SamplingOptions(max_tokens=5))[0].logprobs is None
    with pytest.raises(AssertionError, match="nobody asked"):
        generate(model, batch, SamplingOptions(max_tokens=5, logprobs=0))
