"""Which regions a model is given, in which order, and what is refused."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from tests.tokenizer_samples import word_pieces

import polymodal as pm
from polymodal.data.item_rules import SentenceIds
from polymodal.data.region_features import RegionFeatures
from polymodal.data.region_processor import RegionProcessor, RegionRules
from polymodal.data.tokenizer_files import read_tokenizer
from polymodal.encoders.regions import region_positions
from polymodal.errors import ConfigError, PromptError
from polymodal.pipelines.region_detectors import GridDetector, grid_boxes


@pytest.fixture
def made(tmp_path):
    (tmp_path / "vocab.txt").write_text(word_pieces())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    tokenizer = read_tokenizer(tmp_path)

    def build(numbers: int = 4, **rules) -> RegionProcessor:
        chosen = {"features": 3, "most": 4, **rules}
        ids = SentenceIds(tokenizer, tokenizer.special("[CLS]"), tokenizer.special("[SEP]"), 12)
        positions = partial(region_positions, numbers=numbers)
        return RegionProcessor(rules=RegionRules(positions=positions, **chosen), tokenizer=tokenizer, ids=ids)

    return build


def regions(count: int, scores: list[float] | None = None) -> RegionFeatures:
    features = np.arange(count, dtype=np.float32)[:, None].repeat(3, 1)
    sure = None if scores is None else np.array(scores, np.float32)
    return RegionFeatures(features=features, boxes=grid_boxes(1, count), scores=sure)


def kept(processor: RegionProcessor, found: RegionFeatures) -> list[float]:
    return processor.regions([found])["visual_feats"][0, :, 0].tolist()


def test_the_surest_regions_are_kept_in_the_order_of_the_file(made) -> None:
    scores = [0.1, 0.9, 0.3, 0.8, 0.25, 0.7]
    assert kept(made(), regions(6)) == [0, 1, 2, 3]
    assert kept(made(), regions(6, scores)) == [1, 2, 3, 5]
    assert kept(made(threshold=0.5), regions(6, scores)) == [1, 3, 5]
    assert kept(made(threshold=0.95, least=2), regions(6, scores)) == [1, 3]
    assert kept(made(threshold=0.5), regions(6)) == [0, 1, 2, 3]


def test_the_mean_of_all_regions_stands_in_front_with_the_whole_picture_as_its_box(made) -> None:
    batch = made(5, whole_first=True).regions([regions(3), regions(2)])
    assert batch["visual_feats"][..., 0].tolist() == [[1, 0, 1, 2], [0.5, 0, 1, 0]]
    assert batch["visual_pos"][0, 0].tolist() == [0, 0, 1, 1, 1]
    assert batch["visual_pos"][1, 1].tolist() == [0, 0, 0.5, 1, 0.5]
    assert batch["visual_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_boxes_of_seven_numbers_end_with_width_height_and_area() -> None:
    found = region_positions(torch.tensor([[0.25, 0.0, 0.75, 0.5]]), 7)
    assert found.tolist() == [[0.25, 0.0, 0.75, 0.5, 0.5, 0.5, 0.25]]
    with pytest.raises(ConfigError, match="expected one of"):
        region_positions(torch.zeros(1, 4), 6)


def test_texts_and_regions_are_paired_by_row_whichever_way_they_come(made) -> None:
    processor = made()
    one = pm.regions(regions(2))
    called = processor(regions=[one, one], text=["a", "the"])
    rows = [[{"role": "user", "content": [one, words]}] for words in ("a", "the")]
    told = processor(rows)
    assert all(torch.equal(called[name], told[name]) for name in called)
    assert called["token_type_ids"].shape == called["input_ids"].shape
    assert pickle.loads(pickle.dumps(processor)).modalities == ("regions",)


def test_a_picture_needs_a_detector_and_then_is_read(made) -> None:
    processor = made()
    picture = pm.image(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(PromptError, match=r"found image; set model.processor.detector to read pictures"):
        processor(regions=picture, text="a")
    processor.detector = GridDetector(features=lambda picture: torch.ones(4, 3), rows=2, columns=2)
    batch = processor(regions=picture, text="a")
    assert batch["visual_pos"][0].tolist() == [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    assert processor.modalities == ("regions", "image")
    processor.detector = lambda picture: [1, 2]
    with pytest.raises(ConfigError, match="detector: expected RegionFeatures of a picture, found list"):
        processor(regions=picture, text="a")
    processor.detector = GridDetector(features=lambda picture: torch.ones(3, 3), rows=2, columns=2)
    with pytest.raises(ConfigError, match=r"grid: expected \[4, F\] of a picture, found \[3, 3\]"):
        processor(regions=picture, text="a")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected regions and a text, found neither"),
        ({"regions": [regions(1), regions(2)], "text": "a"}, "2 pictures for 1 texts; they are paired by row"),
        ({"regions": [pm.audio((np.zeros(9), 9))], "text": "a"}, r"takes the regions of a picture .* found audio"),
        ({"messages": "only words"}, "row 0: expected the regions of one picture and a text, found 0 and 'only words'"),
    ],
)
def test_what_is_no_pair_is_refused(made, given: dict, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        made()(**given)


def test_features_of_another_width_are_refused_by_both_numbers(made) -> None:
    with pytest.raises(PromptError, match="3 numbers a region, this model reads 2048"):
        made(features=2048)(regions=regions(2), text="a")
