"""Words to pictures with guidance and grammar, against transformers at tiny size; the grammars by themselves."""

from __future__ import annotations

import pytest
import torch

import polymodal as pm
from polymodal.check.evidence import emu3
from polymodal.check.randomise import fill
from polymodal.errors import ConfigError
from polymodal.generation.grammars import Grid, Interleaved
from polymodal.generation.guidance import guided
from polymodal.generation.sampling import SamplingOptions
from polymodal.pipelines.image_generation import PictureFormat, batch_of, paint, size_of

FORMAT = PictureFormat(bos=1, begin=4, image=5, tail=(6, 7, 2), pad=0)
HEIGHT, WIDTH = 3, 4


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Emu3ForConditionalGeneration(emu3.tiny(transformers, 60, {}, False)).eval()
    fill(theirs)
    folder = tmp_path_factory.mktemp("emu3")
    theirs.save_pretrained(folder)
    return theirs, pm.load(folder).module, transformers


def rule(codes: list[int], start: int):
    """Emu3's published rule, for a prompt of `start` ids."""
    row = [*[codes] * WIDTH, [emu3.END]]
    steps = [*row * HEIGHT, *([id] for id in FORMAT.tail)]
    return lambda batch, ids: steps[len(ids) - start]


@torch.no_grad()
def test_pictures_equal_transformers(pair) -> None:
    theirs, ours, transformers = pair
    prompts = [[1, 12, 13, 14, 4, 30, 31, 5], [1, 20, 4, 30, 31, 5]]
    negative = [1, 15, 16, 4, 30, 31, 5]
    codes = sorted(theirs.vocabulary_mapping.image_tokens)
    found = paint(ours, prompts, [negative] * 2, [(HEIGHT, WIDTH)] * 2, FORMAT, options=SamplingOptions())
    for prompt, picture in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        guide = transformers.UnbatchedClassifierFreeGuidanceLogitsProcessor(
            3.0, theirs, unconditional_ids=torch.tensor([negative])
        )
        steps = HEIGHT * (WIDTH + 1) + 3
        written = theirs.generate(
            ids, max_new_tokens=steps, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=True,
            logits_processor=[guide], prefix_allowed_tokens_fn=rule(codes, len(prompt)),
        )[:, len(prompt) :]  # fmt: skip
        expected = theirs.decode_image_tokens(image_tokens=written, height=HEIGHT, width=WIDTH)[0]
        assert picture.shape == (3, 2 * HEIGHT, 2 * WIDTH)
        assert (picture - expected).abs().max() < 1e-4


def test_pictures_of_unequal_size_and_drawn_by_chance(pair) -> None:
    _, ours, _ = pair
    prompts = [[1, 12, 4, 30, 31, 5], [1, 20, 13, 4, 30, 32, 5]]
    sizes = [(2, 3), (4, 1)]
    options = SamplingOptions(temperature=1.0, top_k=8, seed=3)
    found = paint(ours, prompts, [[1, 4, 30, 5]] * 2, sizes, FORMAT, options=options)
    assert [tuple(picture.shape) for picture in found] == [(3, 4, 6), (3, 8, 2)]


def test_guidance_of_one_is_no_guidance(pair) -> None:
    _, ours, _ = pair
    batches = [batch_of([[1, 12, 13]], 0), batch_of([[1, 14]], 0)]
    options = SamplingOptions(max_tokens=6)
    alone = [piece.id for piece in guided(ours, batches[:1], (1.0,), options)]
    assert [piece.id for piece in guided(ours, batches, (1.0, 0.0), options)] == alone
    with pytest.raises(ConfigError, match="2 weights for 1 branches"):
        list(guided(ours, batches[:1], (1.0, 0.0), options))


def test_grid_has_its_length_whatever_is_drawn() -> None:
    codes = torch.arange(20, 30)
    generator = torch.Generator().manual_seed(0)
    for height, width, end in ((1, 1, 3), (3, 1, 3), (2, 5, 3), (4, 2, None)):
        grid = Grid(height=height, width=width, codes=codes, row_end=end, tail=(6, 7), after=0)
        written: list[int] = []
        for _ in range(grid.size + 4):
            allowed = grid(written)
            assert allowed is not None
            written.append(int(allowed[torch.randint(len(allowed), (), generator=generator)]))
        assert written[grid.size :] == [6, 7, 0, 0]
        rows = torch.tensor(written[: grid.size]).view(height, -1)
        assert bool(torch.isin(rows[:, :width], codes).all())
        assert end is None or rows[:, width].tolist() == [end] * height
    assert Grid(height=1, width=1, codes=codes)([20]) is None
    with pytest.raises(ConfigError, match="1 x 1 or more"):
        Grid(height=0, width=1, codes=codes)


def test_text_and_pictures_alternate() -> None:
    codes = torch.arange(20, 30)
    rule = Interleaved(codes=codes, begin=5, end=6, length=3, vocab_size=40)
    assert not set(rule([]).tolist()) & {6, *codes.tolist()}
    assert 5 in rule([7, 8]).tolist()
    assert torch.equal(rule([7, 5, 21]), codes)
    assert rule([7, 5, 21, 22, 23]).tolist() == [6]
    assert 5 in rule([7, 5, 21, 22, 23, 6]).tolist()
    silent = Interleaved(codes=codes, begin=5, end=6, length=3, vocab_size=40, pictures=False)
    assert 5 not in silent([]).tolist()
    begun = Interleaved(codes=codes, begin=5, end=6, length=3, vocab_size=40, inside=1)
    assert torch.equal(begun([]), codes)
    assert begun([21, 22]).tolist() == [6]


def test_size_of_a_ratio_is_emu3s() -> None:
    assert size_of("1:1", 720 * 720, 8) == (90, 90)
    assert size_of("16:9", 720 * 720, 8) == (68, 120)
