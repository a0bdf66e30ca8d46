"""Greedy search against transformers' generate; beam search and scores against a plain search without any cache."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.models.speech_seq2seq import HF_KEYS, SpeechSeq2Seq
from polymodal.pipelines.transcription.search import DecoderPrompt, SearchOptions, WindowResult, language_probs, search
from polymodal.pipelines.transcription.token_rules import TokenRules
from whisper_tiny import config, model, randomise, tokenizer

WORDS = tokenizer()
FRAMES = 40


def hear(
    network: SpeechSeq2Seq,
    mel: Tensor,
    options: SearchOptions,
    timestamps: bool = True,
    previous: tuple[int, ...] = (),
    language: str = "fr",
    **more: object,
) -> list[WindowResult]:
    start = DecoderPrompt.of(
        WORDS, WORDS.start(language=language, task="translate", timestamps=timestamps), previous, 32
    )
    rules = TokenRules().build(WORDS, timestamps=timestamps)
    with torch.inference_mode():
        context = network.backbone.listen(network.audio(mel))
    return search(network.backbone, context, start, rules, options, WORDS.no_speech, **more)  # type: ignore[arg-type]


def mels(count: int) -> Tensor:
    return torch.randn(count, 80, FRAMES, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def theirs():  # type: ignore[no-untyped-def]
    transformers = pytest.importorskip("transformers")
    sizes = config(FRAMES)
    settings = transformers.WhisperConfig(
        vocab_size=WORDS.vocab_size, d_model=16, encoder_layers=2, decoder_layers=2, num_mel_bins=80,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_source_positions=FRAMES // 2, max_target_positions=sizes.decoder.positions, pad_token_id=WORDS.eot,
        bos_token_id=WORDS.eot, eos_token_id=WORDS.eot, decoder_start_token_id=WORDS.sot,
    )  # fmt: skip
    network = transformers.WhisperForConditionalGeneration(settings).eval()
    randomise(network, seed=3)
    generation = network.generation_config
    generation.lang_to_id = {f"<|{code}|>": id_ for code, id_ in WORDS.language_ids.items()}
    generation.task_to_id = {task: WORDS.id_of(f"<|{task}|>") for task in ("transcribe", "translate")}
    generation.no_timestamps_token_id = WORDS.no_timestamps
    generation.is_multilingual = True
    generation.max_initial_timestamp_index = 50
    generation.suppress_tokens = sorted({*WORDS.control_ids, *WORDS.non_speech_ids})
    generation.begin_suppress_tokens = list(WORDS.blank_ids)
    generation.max_length = None
    return network


def ours(theirs) -> SpeechSeq2Seq:  # type: ignore[no-untyped-def]
    network = config(FRAMES).build().eval()
    network.load_state_dict(dict(HF_KEYS.apply(theirs.state_dict(), network)))
    return network


@pytest.mark.parametrize("timestamps", [True, False])
def test_greedy_equals_transformers(theirs, timestamps: bool) -> None:  # type: ignore[no-untyped-def]
    mel = mels(4)
    with torch.no_grad():
        expected = theirs.generate(
            mel, language="fr", task="translate", return_timestamps=timestamps, max_new_tokens=20,
            force_unique_generate_call=True,
        )  # fmt: skip
    found = hear(ours(theirs), mel, SearchOptions(longest=20), timestamps)
    start = len(WORDS.start(language="fr", task="translate", timestamps=timestamps))
    wanted = [tuple(ids[start:][ids[start:] != WORDS.eot].tolist()) for ids in expected]
    assert [result.tokens for result in found] == wanted
    assert len({result.tokens for result in found}) > 1  # the four sounds do not all give one answer


def test_language_equals_transformers(theirs) -> None:  # type: ignore[no-untyped-def]
    network, mel = ours(theirs), mels(6)
    expected = theirs.detect_language(input_features=mel).tolist()
    with torch.inference_mode():
        probs = language_probs(network.backbone, network.backbone.listen(network.audio(mel)), WORDS)
    assert [WORDS.language_ids[max(item, key=lambda code: item[code])] for item in probs] == expected
    assert all(sum(item.values()) == pytest.approx(1, abs=1e-5) for item in probs)


def test_language_needs_a_multilingual_model() -> None:
    network, english = model(FRAMES, multilingual=False), tokenizer(multilingual=False)
    context = network.backbone.listen(torch.zeros(1, FRAMES // 2, 16))
    with pytest.raises(ConfigError, match="English only"):
        language_probs(network.backbone, context, english)


class Plain:
    """Scores of the next token by running the whole sequence again, for one recording."""

    def __init__(self, network: SpeechSeq2Seq, mel: Tensor, timestamps: bool) -> None:
        self.network, self.mel = network, mel
        self.start = [*WORDS.start(language="fr", task="translate", timestamps=timestamps)]
        self.rules = TokenRules().build(WORDS, timestamps=timestamps)

    @torch.no_grad()
    def logprobs(self, written: tuple[int, ...]) -> Tensor:
        logits = self.network(self.mel[None], torch.tensor([[*self.start, *written]])).logits[:, -1]
        return self.rules.apply(logits.clone(), [written]).log_softmax(-1)[0]


Rank = Callable[[tuple[tuple[int, ...], float]], float]


def plain_beam(scores: Plain, beams: int, enough: int, longest: int, rank: Rank) -> tuple[tuple[int, ...], float]:
    """Beam search as in the paper: every beam is extended by its `beams + 1` best tokens, ended ones are set aside."""
    alive: dict[tuple[int, ...], float] = {(): 0.0}
    ended: dict[tuple[int, ...], float] = {}
    for _ in range(longest):
        options = {}
        for written, score in alive.items():
            values, ids = scores.logprobs(written).topk(beams + 1)
            options |= {
                (*written, id_): score + value for value, id_ in zip(values.tolist(), ids.tolist(), strict=True)
            }
        alive, fresh = {}, {}
        for written in sorted(options, key=lambda key: -options[key]):
            if written[-1] == WORDS.eot:
                fresh[written[:-1]] = options[written]
            else:
                alive[written] = options[written]
            if len(alive) == beams:
                break
        for written in sorted(fresh, key=lambda key: -fresh[key])[: max(enough - len(ended), 0)]:
            ended[written] = fresh[written]
        if len(ended) >= enough:
            break
    for written in sorted(alive, key=lambda key: -alive[key])[: max(beams - len(ended), 0)]:
        ended[written] = alive[written]
    return max(ended.items(), key=rank)


@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize(("beams", "patience", "penalty"), [(3, 1.0, None), (2, 2.0, 0.6)])
def test_beam_search_equals_a_plain_one(timestamps: bool, beams: int, patience: float, penalty: float | None) -> None:
    network, mel = model(FRAMES, seed=5), mels(3)

    def rank(candidate: tuple[tuple[int, ...], float]) -> float:
        size = len(candidate[0])
        return candidate[1] / (max(size, 1) if penalty is None else ((5 + size) / 6) ** penalty)

    options = SearchOptions(beams=beams, patience=patience, length_penalty=penalty, longest=8)
    found = hear(network, mel, options, timestamps)
    for result, item in zip(found, mel, strict=True):
        tokens, score = plain_beam(Plain(network, item, timestamps), beams, round(beams * patience), 8, rank)
        assert result.tokens == tokens
        assert result.avg_logprob == pytest.approx(score / (len(tokens) + 1), abs=1e-4)


def test_greedy_scores_equal_a_plain_run() -> None:
    network, mel = model(FRAMES, seed=6), mels(2)
    found = hear(network, mel, SearchOptions(longest=10))
    for result, item in zip(found, mel, strict=True):
        plain, score, written = Plain(network, item, True), 0.0, ()
        while len(written) < 10:
            values = plain.logprobs(written)
            token = int(values.argmax())
            score += float(values[token])
            if token == WORDS.eot:
                break
            written = (*written, token)
        assert result.tokens == written
        assert result.avg_logprob == pytest.approx(score / (len(written) + 1), abs=1e-4)
        with torch.no_grad():
            first = network(item[None], torch.tensor([plain.start])).logits[0, 0].softmax(-1)
        assert result.no_speech_prob == pytest.approx(float(first[WORDS.no_speech]), abs=1e-5)


def test_sampling_is_seeded_and_takes_the_best_of_its_samples() -> None:
    network, mel = model(FRAMES, seed=8), mels(1)

    def drawn(seed: int, samples: int) -> WindowResult:
        generator = torch.Generator().manual_seed(seed)
        options = SearchOptions(samples=samples, longest=6)
        return hear(network, mel, options, temperature=1.5, generator=generator)[0]

    assert drawn(1, 4) == drawn(1, 4)
    assert len({drawn(seed, 1).tokens for seed in range(6)}) > 1
    mean_of_one = sum(drawn(seed, 1).avg_logprob for seed in range(6)) / 6
    mean_of_best = sum(drawn(seed, 4).avg_logprob for seed in range(6)) / 6
    assert mean_of_best > mean_of_one


def test_text_before_is_cut_from_the_left_and_never_overflows() -> None:
    network, mel = model(FRAMES), mels(1)
    previous = tuple(range(100))
    start = DecoderPrompt.of(WORDS, WORDS.start(language="fr"), previous, 32)
    assert start.ids == (WORDS.sot_prev, *previous[-31:], *WORDS.start(language="fr"))
    assert start.ids[start.sot] == WORDS.sot
    assert DecoderPrompt.of(WORDS, WORDS.start(language="fr"), (), 32).sot == 0
    result = hear(network, mel, SearchOptions(beams=2), previous=previous)[0]
    assert len(result.tokens) + 35 <= network.config.decoder.positions + 1  # the last token is written, not read


@pytest.mark.parametrize(
    "wrong", [{"beams": 0}, {"samples": 0}, {"beams": 2, "patience": 0.1}, {"length_penalty": 1.5}]
)
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        SearchOptions(**wrong)  # type: ignore[arg-type]
