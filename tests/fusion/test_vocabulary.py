"""Vocabulary: every id there and back, ranges that are nobody else's, new rows beside frozen ones."""

import pytest
import torch

from polymodal.backbones.llama import LlamaShape
from polymodal.check.randomise import fill as randomise
from polymodal.errors import ConfigError, PromptError, UnknownName
from polymodal.fusion.vocabulary import NewRows, Span, Spelling, Table, Vocabulary, extend, fill, merge

ORDER = torch.randperm(16, generator=torch.Generator().manual_seed(4))
SHUFFLED = Table(codes=tuple(range(16)), ids=tuple(int(i) for i in ORDER * 3 + 2))


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary(size=64, codecs={"image": Span(start=5, count=32)}),
        Vocabulary(size=80, codecs={"image": SHUFFLED, "audio": Span(start=60, count=20)}, multiple=64),
        Vocabulary(size=9, codecs={"image": Table.of({3: 8, 1: 2, 7: 4})}),
    ],
)
def test_every_id_there_and_back(vocabulary: Vocabulary) -> None:
    seen: set[int] = set()
    for name, codec in vocabulary.codecs.items():
        codes = torch.tensor(codec.codes)
        ids = vocabulary.from_codec(name, codes)
        assert torch.equal(vocabulary.to_codec(name, ids), codes)
        assert torch.equal(vocabulary.ids(name), ids)
        assert not seen & set(ids.tolist())
        seen |= set(ids.tolist())
        for stranger in set(range(vocabulary.size)) - set(ids.tolist()):
            with pytest.raises(PromptError):
                vocabulary.to_codec(name, torch.tensor([stranger]))
    assert vocabulary.rows >= vocabulary.size
    assert vocabulary.rows % vocabulary.multiple == 0


def test_holes_are_refused_or_read_as_said() -> None:
    holes = Table.of({2: 5, 4: 6}, missing=0)
    vocabulary = Vocabulary(size=8, codecs={"image": holes})
    assert vocabulary.from_codec("image", torch.tensor([[0, 2], [4, 1]])).tolist() == [[0, 5], [6, 0]]
    strict = Vocabulary(size=8, codecs={"image": Table.of({2: 5, 4: 6})})
    with pytest.raises(PromptError, match="code 3 has no id"):
        strict.from_codec("image", torch.tensor([2, 3]))
    with pytest.raises(PromptError, match=r"0\.\.4; found 2\.\.5"):
        strict.from_codec("image", torch.tensor([2, 5]))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="belongs to image already"):
        Vocabulary(size=9, codecs={"image": Span(start=2, count=3), "audio": Span(start=4, count=2)})
    with pytest.raises(ConfigError, match=r"must lie in 0\.\.8"):
        Vocabulary(size=9, codecs={"image": Span(start=7, count=3)})
    with pytest.raises(UnknownName, match="no codec 'video'"):
        Vocabulary(size=9, codecs={"image": Span(start=0, count=3)}).ids("video")
    with pytest.raises(ConfigError, match="each code once"):
        Table(codes=(1, 1), ids=(2, 3))


def test_fill_writes_items_in_order() -> None:
    ids = torch.tensor([[1, 9, 9, 2], [9, 3, 9, 9]])
    items = [torch.tensor([5, 6]), torch.tensor([[7]]), torch.tensor([8, 4])]
    assert fill(ids, items, 9).tolist() == [[1, 5, 6, 2], [7, 3, 8, 4]]
    with pytest.raises(PromptError, match="5 placeholders for 3 tokens"):
        fill(ids, items[:2], 9)


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_learn_and_the_old_ones_do_not(tied: bool) -> None:
    shape = LlamaShape(width=32, depth=1, heads=2, ffn_width=48, vocab_size=20, tied=tied)
    decoder = shape.config().build()
    randomise(decoder)
    ids = torch.tensor([[3, 21, 7, 24]])
    plain = decoder(decoder.embed(ids.clamp_max(19)), torch.arange(4)[None])
    before = decoder.head(plain)
    extend(decoder, 5)
    assert torch.allclose(decoder.head(plain)[..., :20], before, atol=1e-6)
    logits = decoder.head(decoder(decoder.embed(ids), torch.arange(4)[None]))
    assert logits.shape == (1, 4, 25)
    logits.logsumexp(-1).sum().backward()
    table = decoder.embed_tokens
    assert isinstance(table, NewRows)
    assert table.base.weight.grad is None
    assert table.new.weight.grad is not None
    used = {1, 4} if not tied else {0, 1, 2, 3, 4}
    assert set(table.new.weight.grad.abs().sum(1).nonzero().flatten().tolist()) == used
    merge(decoder)
    whole = decoder.head(decoder(decoder.embed(ids), torch.arange(4)[None]))
    assert torch.allclose(whole, logits, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_a_second_modality_gets_a_table_of_its_own(tied: bool) -> None:
    shape = LlamaShape(width=32, depth=1, heads=2, ffn_width=48, vocab_size=20, tied=tied)
    decoder = shape.config().build()
    extend(decoder, 5)
    randomise(decoder)
    ids = torch.tensor([[3, 21, 7, 24]])
    before = decoder.head(decoder(decoder.embed(ids), torch.arange(4)[None]))
    learned = {name for name, each in decoder.named_parameters() if each.requires_grad}
    extend(decoder, 3)
    assert {name for name, each in decoder.named_parameters() if each.requires_grad and "embed" in name} == {
        "embed_tokens.new.weight"
    } and any("embed_tokens.new" in name for name in learned)
    assert decoder.embed_tokens.weight.shape == (28, 32) and decoder.embed_tokens.num_embeddings == 28
    again = decoder.head(decoder(decoder.embed(ids), torch.arange(4)[None]))
    assert again.shape == (1, 4, 28) and torch.allclose(again[..., :25], before, atol=1e-6)
    more = torch.tensor([[3, 25, 24, 27]])
    logits = decoder.head(decoder(decoder.embed(more), torch.arange(4)[None]))
    logits.logsumexp(-1).sum().backward()
    first = decoder.embed_tokens.base
    assert isinstance(first, NewRows) and first.new.weight.grad is None and first.base.weight.grad is None
    assert decoder.embed_tokens.new.weight.grad[[0, 2]].abs().sum() > 0
    merge(decoder)
    assert torch.allclose(decoder.head(decoder(decoder.embed(more), torch.arange(4)[None])), logits, atol=1e-5)


def test_spelling_there_and_back() -> None:
    vocabulary = Vocabulary(size=60, codecs={"image": SHUFFLED})
    codes = torch.arange(24).reshape(2, 3, 4) % 16
    plain, rows = Spelling(vocabulary), Spelling(vocabulary, row_end=1)
    assert plain(codes).shape == (2, 12)
    spelled = rows(codes)
    assert spelled.shape == (2, 15)
    assert spelled[:, 4::5].unique().tolist() == [1]
    assert torch.equal(rows.codes(spelled, 3, 4), codes)
    assert torch.equal(plain.codes(plain(codes), 3, 4), codes)
    assert [ids.tolist() for ids in rows([codes[0], codes[1, :1, :2]])] == [
        spelled[0].tolist(),
        [*vocabulary.from_codec("image", codes[1, 0, :2]).tolist(), 1],
    ]
    with pytest.raises(PromptError, match="15 ids, found 14"):
        rows.codes(spelled[:, 1:], 3, 4)
