"""Whisper's tokenizer against tiktoken on the same ranks, and the ids that the published models fix."""

import base64
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.data.tiktoken_file import read_ranks
from polymodal.data.whisper_languages import LANGUAGES, language_code
from polymodal.data.whisper_tokenizer import WORD_PATTERN, WhisperTokenizer
from polymodal.errors import ConfigError, UnknownName, WeightsError

CORPUS = (
    "the whale and the other whales were there; they're 1234 fathoms down, isn't it?  I'll say: 'yes'\n\n"
    "Übung macht den Meister, déjà vu. 你好，世界。 Привет, мир! ♪♪ The theme thereafter, 2024-01-31, a@host.\t tabs"
)


def trained(text: str, merges: int) -> dict[bytes, int]:
    """Byte-pair ranks learned from a text, the plain way: join the most frequent pair, again and again."""
    words = [[word[i : i + 1] for i in range(len(word))] for word in text.encode().replace(b" ", b"\0 ").split(b"\0")]
    ranks = {bytes([value]): value for value in range(256)}
    for _ in range(merges):
        pairs: dict[tuple[bytes, bytes], int] = {}
        for word in words:
            for pair in pairwise(word):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        ranks.setdefault(best[0] + best[1], len(ranks))
        for word in words:
            for place in range(len(word) - 1, 0, -1):
                if place < len(word) and (word[place - 1], word[place]) == best:
                    word[place - 1 : place + 1] = [best[0] + best[1]]
    return ranks


RANKS = trained(CORPUS, 160)
WORDS = WhisperTokenizer(RANKS, multilingual=True)


@pytest.fixture(scope="module")
def oracle():  # type: ignore[no-untyped-def]
    tiktoken = pytest.importorskip("tiktoken")
    return tiktoken.Encoding("tiny", pat_str=WORD_PATTERN, mergeable_ranks=RANKS, special_tokens={})


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(CORPUS.split(" ")), max_size=12).map(" ".join)))
def test_ids_equal_tiktoken(oracle, text: str) -> None:  # type: ignore[no-untyped-def]
    ids = WORDS.encode(text)
    assert ids == oracle.encode_ordinary(text)
    assert WORDS.decode(ids) == text


def test_long_text_equals_tiktoken(oracle) -> None:  # type: ignore[no-untyped-def]
    pieces = CORPUS.split(" ")
    text = " ".join(random.Random(0).choices(pieces, k=500))
    assert WORDS.encode(text) == oracle.encode_ordinary(text)
    assert len(WORDS.encode(text)) < len(text.encode()) / 1.5


def test_special_tokens_written_by_a_user_are_text() -> None:
    text = "<|startoftranscript|><|en|> hello<|endoftext|>"
    ids = WORDS.encode(text)
    assert max(ids) < WORDS.eot
    assert WORDS.decode(ids) == text


def test_a_lone_surrogate_becomes_the_replacement_mark() -> None:
    assert WORDS.decode(WORDS.encode("a\ud800b")) == "a�b"


def test_marks_are_left_out_or_written_out() -> None:
    begin = WORDS.timestamp_begin
    ids = [*WORDS.start(language="fr", task="translate"), begin, *WORDS.encode(" the"), begin + 54]
    assert WORDS.decode(ids) == " the"
    assert WORDS.decode_marked(ids) == "<|startoftranscript|><|fr|><|translate|><|0.00|> the<|1.08|>"


def test_half_a_character_is_not_an_error() -> None:
    assert WORDS.decode(list("é".encode())[:1]) == "�"


@pytest.mark.parametrize(
    ("texts", "languages", "multilingual", "expected"),
    [
        # eot, sot, translate, transcribe, startofprev, nospeech, notimestamps, first timestamp, vocabulary
        (50_256, 99, False, (50_256, 50_257, 50_357, 50_358, 50_360, 50_361, 50_362, 50_363, 51_864)),
        (50_257, 99, True, (50_257, 50_258, 50_358, 50_359, 50_361, 50_362, 50_363, 50_364, 51_865)),
        (50_257, 100, True, (50_257, 50_258, 50_359, 50_360, 50_362, 50_363, 50_364, 50_365, 51_866)),
    ],
)
def test_published_ids(texts: int, languages: int, multilingual: bool, expected: tuple[int, ...]) -> None:
    ranks = {bytes([i]): i for i in range(256)} | {i.to_bytes(4, "big"): i for i in range(256, texts)}
    words = WhisperTokenizer(ranks, multilingual=multilingual, languages=languages)
    names = ("translate", "transcribe", "startofprev", "nospeech", "notimestamps")
    named = [words.id_of(f"<|{name}|>") for name in names]
    assert (words.eot, words.sot, *named, words.timestamp_begin, words.vocab_size) == expected
    assert words.id_of("<|30.00|>") == words.vocab_size - 1
    assert words.language_ids["en"] == words.sot + 1


def test_start_sequences() -> None:
    english = WhisperTokenizer(RANKS, multilingual=False)
    assert english.start(language=None) == (english.sot,)
    assert english.start(language="en", timestamps=False) == (english.sot, english.no_timestamps)
    french, transcribe = WORDS.language_ids["fr"], WORDS.id_of("<|transcribe|>")
    assert WORDS.start(language="French") == (WORDS.sot, french, transcribe)
    assert WORDS.start(language="fr", timestamps=False) == (WORDS.sot, french, transcribe, WORDS.no_timestamps)


def test_what_a_model_cannot_do_is_refused() -> None:
    english = WhisperTokenizer(RANKS, multilingual=False)
    with pytest.raises(ConfigError, match="multilingual"):
        english.start(language=None, task="translate")
    with pytest.raises(ConfigError, match="English only"):
        english.start(language="fr")
    with pytest.raises(ConfigError, match="transcribe, translate"):
        WORDS.start(language="fr", task="sing")
    with pytest.raises(UnknownName, match="klingon"):
        WORDS.start(language="klingon")
    with pytest.raises(UnknownName, match="yue"):
        WORDS.start(language="yue")  # only the models with 100 languages know it
    with pytest.raises(UnknownName):
        WORDS.id_of("<|nothing|>")


def test_languages() -> None:
    assert len(LANGUAGES) == 100
    assert list(LANGUAGES)[:3] == ["en", "zh", "de"]
    assert list(LANGUAGES)[98:] == ["su", "yue"]
    assert language_code(" Haitian Creole ") == "ht"
    assert language_code("yue", 100) == "yue"


def rank_file(ranks: dict[bytes, int]) -> bytes:
    return b"\n".join(base64.b64encode(token) + b" %d" % rank for token, rank in ranks.items()) + b"\n"


def test_rank_file_round_trip() -> None:
    assert read_ranks(rank_file(RANKS)) == RANKS
    constraints = rank_file(RANKS) + b"= %d\n" % len(RANKS)  # the published multilingual file ends in an empty token
    assert read_ranks(constraints) == {**RANKS, b"": len(RANKS)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "lacks the single byte 0x00"),
        (b"AA== 0\nnot a rank file", "line 2"),
        (b"@@@@ 0", "line 1"),
        (b"AA== zero", "line 1"),
        (rank_file({**{bytes([i]): i for i in range(256)}, b"ab": 300}), "not 0..256"),
    ],
)
def test_broken_rank_files_are_named(data: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_ranks(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_end_in_one_error(data: bytes) -> None:
    with pytest.raises(WeightsError):
        read_ranks(data)
