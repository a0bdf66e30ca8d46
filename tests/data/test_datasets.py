"""Training data of every known form: the same samples whatever file they lie in; damaged ones named."""

import csv
import io
import json
import pickle
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.opening import open_dataset
from polymodal.data.datasets.sample import Dataset, Sample
from polymodal.data.media import Image, Text
from polymodal.errors import ConfigError, MediaError, PromptError

RECORD = {"image": "red.png", "question": "Which colour?", "answer": "Red, I think."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Pillow.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / "red.png")
    return tmp_path


def written(sample: Sample) -> list[tuple[str, list[Any]]]:
    return [
        (each.role, [part.text if isinstance(part, Text) else part.picture.size for part in each.parts])
        for each in sample.messages
    ]


def test_every_format_gives_the_same_sample(folder: Path) -> None:
    (folder / "a.jsonl").write_text("\n" + json.dumps(RECORD) + "\n")
    (folder / "a.json").write_text(json.dumps([RECORD], indent=2))
    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list(RECORD), list(RECORD.values())])
    with (folder / "a.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([list(RECORD), list(RECORD.values())])
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, data in (("1.png", (folder / "red.png").read_bytes()), ("1.json", b'{"question": "Which colour?"}'),
                           ("1.txt", b"Red, I think.\n")):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    talk = {"messages": [
        {"role": "user", "content": [{"type": "image", "image": "red.png"}, {"type": "text", "text": "Which colour?"}]},
        {"role": "assistant", "content": "Red, I think."},
    ]}  # fmt: skip
    (folder / "openai.jsonl").write_text(json.dumps(talk))
    llava = {"id": "1", "image": "red.png", "conversations": [
        {"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "Red, I think."},
    ]}  # fmt: skip
    (folder / "llava.json").write_text(json.dumps([llava]))
    expected = [("user", [(8, 6), "Which colour?"]), ("assistant", ["Red, I think."])]
    for name in ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.tar", "openai.jsonl", "llava.json"):
        dataset = open_dataset(folder / name)
        assert len(dataset) == 1
        assert written(dataset.sample(0)) == expected, name
        assert written(pickle.loads(pickle.dumps(dataset)).sample(0)) == expected, name
        about = dataset.manifest()
        assert about["samples"] == 1 and len(about["sha256"]) == 64


def test_parquet_rows_with_media_as_bytes(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    picture = {"bytes": (folder / "red.png").read_bytes(), "path": None}
    rows = [{"image": picture, "caption": f"red {number}"} for number in range(5)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "a.parquet", row_group_size=2)
    dataset = open_dataset(folder / "a.parquet", question="What is it?")
    assert [written(dataset.sample(i))[1] for i in (4, 0)] == [("assistant", ["red 4"]), ("assistant", ["red 0"])]
    assert written(dataset.sample(2))[0] == ("user", [(8, 6), "What is it?"])


def test_folders_by_caption_by_label_and_by_list(folder: Path) -> None:
    (folder / "beside").mkdir()
    (folder / "beside" / "1.png").write_bytes((folder / "red.png").read_bytes())
    (folder / "beside" / "1.txt").write_text(" a red field \n")
    (folder / "labels" / "dark_red").mkdir(parents=True)
    (folder / "labels" / "dark_red" / "x.png").write_bytes((folder / "red.png").read_bytes())
    (folder / "listed").mkdir()
    (folder / "listed" / "y.png").write_bytes((folder / "red.png").read_bytes())
    (folder / "listed" / "metadata.jsonl").write_text(json.dumps({"file_name": "y.png", "text": "a list's red"}))
    answers = {"beside": "a red field", "labels": "dark red", "listed": "a list's red"}
    for name, answer in answers.items():
        dataset = open_dataset(folder / name)
        assert written(dataset.sample(0)) == [("user", [(8, 6)]), ("assistant", [answer])]
        assert dataset.manifest()["samples"] == 1


def test_media_stand_where_their_marks_are(folder: Path) -> None:
    record = {
        "images": ["red.png", "red.png"],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Compare <image> with <image>, please."},
            {"role": "assistant", "content": "Equal."},
        ],
    }
    (folder / "two.jsonl").write_text(json.dumps(record))
    sample = open_dataset(folder / "two.jsonl").sample(0)
    parts = sample.messages[1].parts
    assert [type(part) for part in parts] == [Text, Image, Text, Image, Text]
    assert [part.text for part in parts if isinstance(part, Text)] == ["Compare", "with", ", please."]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**RECORD, "question": "<image><image>"}, "bad.jsonl:1: its texts mark 2 times <image>, and it has 1 image"),
        ({"image": "blue.png", "caption": "blue"}, "bad.jsonl:1: there is no file .*blue.png; --media-root says"),
        ({"picture_file": "red.png"}, "bad.jsonl:1: has the keys picture_file; expected messages, conversations"),
        ({"messages": [{"role": "boss", "content": "go"}]}, "bad.jsonl:1: turn 0 is of role 'boss'; expected"),
        ({"messages": [{"role": "user", "content": "go"}]}, "bad.jsonl:1: has no answer to learn from"),
        ({"messages": []}, "bad.jsonl:1: has no turns"),
        ([1, 2], "bad.jsonl:1: expected an object with keys, found list"),
    ],
)
def test_a_damaged_sample_is_named(folder: Path, record: Any, message: str) -> None:
    (folder / "bad.jsonl").write_text(json.dumps(record))
    with pytest.raises((PromptError, MediaError), match=message):
        open_dataset(folder / "bad.jsonl").sample(0)


def test_what_is_no_data_set_is_refused_by_name(folder: Path) -> None:
    (folder / "empty.jsonl").write_text("\n\n")
    (folder / "object.json").write_text('[{"a": 1}')
    (folder / "a.xlsx").write_text("x")
    (folder / "empty").mkdir()
    (folder / "a.tar").write_bytes(b"not a tar archive" * 100)
    for name, message in (
        ("empty.jsonl", "holds no samples"),
        ("object.json", "ends inside a sample"),
        ("a.xlsx", "of no known kind of data; expected a folder, .json"),
        ("nowhere.jsonl", "there is no data at"),
        ("a.tar", "no uncompressed tar archive"),
        ("empty", "holds no samples; expected media with a .txt"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_dataset(folder / name)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.dictionaries(st.text(max_size=6), VALUES, max_size=4), min_size=1, max_size=4),
    indent=st.sampled_from((None, 1)),
)
def test_an_array_is_cut_where_its_samples_are(
    tmp_path_factory: pytest.TempPathFactory, records: Any, indent: Any
) -> None:
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=indent is None))
    dataset: Any = open_dataset(path)
    assert [json.loads(dataset._bytes(i, "")) for i in range(len(dataset))] == records


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\",\t")),
                            min_size=2, max_size=2), min_size=1, max_size=6)
)  # fmt: skip
def test_a_table_is_cut_where_its_rows_are(tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("table") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["question", "answer"], *cells])
    dataset: Any = open_dataset(path)
    found = [dataset._record(dataset._bytes(i, ""), "") for i in range(len(dataset))]
    assert [[row["question"], row["answer"]] for row in found] == cells


class Numbers(Dataset):
    kind = "numbers"

    def __init__(self, size: int) -> None:
        super().__init__(Path("."))
        self.size = size

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int) -> Sample:
        return Sample(name=str(index))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3), seed=st.integers(0, 9), shuffle=st.booleans())
def test_without_weights_an_epoch_holds_each_sample_once(sizes: list[int], seed: int, shuffle: bool) -> None:
    mixture = Mixture([Numbers(size) for size in sizes], seed=seed, shuffle=shuffle)
    each = {(source, sample) for source, size in enumerate(sizes) for sample in range(size)}
    total = sum(sizes)
    for epoch in range(3):
        assert {mixture.at(epoch * total + place) for place in range(total)} == each
    assert Mixture([Numbers(size) for size in sizes], seed=seed, shuffle=shuffle).at(2 * total) == mixture.at(2 * total)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    weights=st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
)
def test_weights_share_the_positions_and_samples_come_equally_often(sizes: list[int], weights: list[float]) -> None:
    mixture = Mixture([Numbers(size) for size in sizes], weights[: len(sizes)], seed=1)
    seen = [mixture.at(position) for position in range(4 * mixture.epoch_size)]
    for source, size in enumerate(sizes):
        count = Counter(sample for where, sample in seen if where == source)
        share = 4 * mixture.epoch_size * weights[source] / sum(weights[: len(sizes)])
        assert abs(sum(count.values()) - share) < 4
        assert not count or max(count.values()) - min(count[i] for i in range(size)) <= 1


def test_orders_differ_between_epochs_and_seeds() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        mixture = Mixture([Numbers(50)], seed=seed)
        return [mixture.at(50 * epoch + place)[1] for place in range(50)]

    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert np.array_equal([Mixture([Numbers(5)], shuffle=False).at(i)[1] for i in range(7)], [0, 1, 2, 3, 4, 0, 1])
    with pytest.raises(ConfigError, match="expected one above 0 for each"):
        Mixture([Numbers(5)], [0.0])
