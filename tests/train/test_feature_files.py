"""Files of features: what is read, and by which words a bad one is refused."""

import io
import os
import pickle

import numpy as np
import pytest
import torch

from polymodal.errors import ConfigError
from polymodal.train.feature_files import open_features
from polymodal.weights.array_pickle import read_pickle

COUNT = 3


def mmsa(**changes):
    """One split of an MMSA file, unaligned, as 2.2.1 writes it."""
    rng = np.random.default_rng(0)
    made = {
        "raw_text": np.array(["one", "two words", "three"], dtype=object),
        "text": rng.normal(size=(COUNT, 6, 8)).astype(np.float32),
        "text_bert": np.ones((COUNT, 3, 6), np.float32),
        "audio": rng.normal(size=(COUNT, 9, 4)),
        "vision": rng.normal(size=(COUNT, 7, 5)),
        "audio_lengths": [9, 4, 2],
        "vision_lengths": [3, 7, 5],
        "id": ["a$_$0", "a$_$1", "b$_$0"],
        "annotations": ["Positive", "Neutral", "Negative"],
        "regression_labels": np.array([1.5, 0.0, -2.0], np.float32),
        "classification_labels": np.array([2, 1, 0]),
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def write(folder, table, protocol=4):
    path = folder / "features.pkl"
    path.write_bytes(pickle.dumps(table, protocol))
    return path


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_mmsa_files_of_every_protocol(tmp_path, protocol):
    table = {"train": mmsa(), "valid": mmsa(), "test": mmsa()}
    found = open_features(write(tmp_path, table, protocol), "valid")
    assert len(found) == COUNT and found.widths == {"text": 8, "audio": 4, "vision": 5}
    sample = found[1]
    assert sample.name == "a$_$1" and sample.text == "two words" and sample.labels == {"M": 0.0}
    assert [len(sample.features[each]) for each in ("text", "audio", "vision")] == [6, 4, 7]
    assert np.array_equal(sample.features["audio"], table["valid"]["audio"][1, :4].astype(np.float32))
    assert sample.ids.shape == (3, 6) and sample.ids.dtype == np.int64


def test_values_are_what_pickle_reads(tmp_path):
    values = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(4, dtype=">i4"),
        "text": np.array(["a", "bc"]),
        "scalar": np.float32(2.5),
        "flags": np.array([True, False]),
        "nested": [(1, "x"), {"y": [None, 2**40, 1.5]}],
        "bytes": b"raw",
        "set": {"a", "b"},
        "empty": np.zeros((0, 3)),
    }
    for protocol in range(1, 6):
        read = read_pickle(write(tmp_path, values, protocol))
        assert list(read) == list(values)
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(read[name], value) and read[name].shape == value.shape, (protocol, name)
            else:
                assert read[name] == value, (protocol, name)


def test_shared_arrays_are_one(tmp_path):
    one = np.arange(3.0)
    read = read_pickle(write(tmp_path, [one, one]))
    assert np.array_equal(read[0], read[1])


class Harmful:
    def __reduce__(self):
        return os.system, ("touch /tmp/it-ran",)


@pytest.mark.parametrize("value", [Harmful(), torch.zeros(2), io.StringIO("a"), np.random.default_rng(0)])
def test_other_names_are_refused_by_name(tmp_path, value):
    for protocol in (2, 4):
        with pytest.raises(ConfigError, match=r"names [\w.]+, which is not read: expected tables"):
            read_pickle(write(tmp_path, {"train": value}, protocol))
    assert not os.path.exists("/tmp/it-ran")


def test_damage_is_one_line(tmp_path):
    whole = pickle.dumps({"train": mmsa()}, 4)
    path = tmp_path / "features.pkl"
    for cut in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ConfigError, match=r"empty|damaged|no pickle"):
            open_features(path, "train")
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
        path.write_bytes(bytes(data))
        try:
            open_features(path, "train")
        except ConfigError as problem:
            assert "\n" not in str(problem)


REFUSALS = {
    "no features; expected text": {"text": None, "text_bert": None, "audio": None, "vision": None},
    "audio has 2 samples, expected 3": {"audio": np.zeros((2, 9, 4)), "audio_lengths": None},
    r"sample a\$_\$1: audio is nan at step 1, number 2": {"audio": None},
    r"sample b\$_\$0: vision is inf at step 4": {"vision": None},
    "sample a.*: audio_lengths says 12, expected 1 to 9": {"audio_lengths": [12, 4, 2]},
    "audio_lengths says 0, expected 1 to 9": {"audio_lengths": [0, 4, 2]},
    r"text must be numbers \[N, T, F\]": {"text": np.array(["a", "b", "c"])},
    "audio is of rows of unequal length": {"audio": [[[1.0]], [[1.0], [2.0]], [[1.0]]]},
    r"label M is \[nan\], expected one number": {"regression_labels": np.array([1.0, np.nan, 0.0])},
    "labels M must be numbers": {"regression_labels": np.array(["a", "b", "c"])},
    r"text_bert must be \[N, 3, T\]": {"text_bert": np.ones((3, 2, 6))},
}


@pytest.mark.parametrize("words", REFUSALS)
def test_bad_features_are_refused_by_name(tmp_path, words):
    changes = dict(REFUSALS[words])
    table = mmsa()
    if "audio is nan" in words:
        changes = {"audio": table["audio"]}
        changes["audio"][1, 1, 2] = np.nan
    if "vision is inf" in words:
        changes = {"vision": table["vision"]}
        changes["vision"][2, 4, 0] = np.inf
    with pytest.raises(ConfigError, match=words):
        open_features(write(tmp_path, {"train": mmsa(**changes)}), "train")


def test_minus_infinity_of_audio_is_zero_as_in_mmsa(tmp_path):
    audio = mmsa()["audio"]
    audio[0, 2, 1] = -np.inf
    audio[1, 8, 0] = np.nan  # behind the sample's last step
    found = open_features(write(tmp_path, {"train": mmsa(audio=audio)}), "train")
    assert found[0].features["audio"][2, 1] == 0


def test_unknown_splits_are_named(tmp_path):
    with pytest.raises(ConfigError, match="has no split 'test'; it has train"):
        open_features(write(tmp_path, {"train": mmsa()}), "test")
    with pytest.raises(ConfigError, match="split 'dev' is not known"):
        open_features(tmp_path, "dev")


def test_npz_by_split_and_flat(tmp_path):
    keys = ("text", "audio", "vision", "audio_lengths", "vision_lengths", "regression_labels", "id")
    table = {name: np.asarray(value) for name, value in mmsa().items() if name in keys}
    np.savez(tmp_path / "features.npz", **{f"test/{name}": value for name, value in table.items()})
    assert open_features(tmp_path, "test")[2].labels == {"M": -2.0}  # a folder with one file of features
    np.savez(tmp_path / "features.npz", split=np.array(["train", "train", "test"]), **table)
    assert [len(open_features(tmp_path, each)) for each in ("train", "test")] == [2, 1]
    with pytest.raises(ConfigError, match=r"no samples of split 'valid'; it has test, train"):
        open_features(tmp_path, "valid")
    np.savez(tmp_path / "features.npz", text=np.array([{}], dtype=object))
    with pytest.raises(ConfigError, match=r"no \.npz of plain arrays"):
        open_features(tmp_path)


def test_csv_rows_of_one_id_are_a_sequence(tmp_path):
    path = tmp_path / "features.csv"
    path.write_text("id,split,label,text_0,text_1,video_0\na,train,1.5,1,2,5\na,train,1.5,3,4,\nb,test,-1,5,6,7\n")
    found = open_features(path)
    assert [each.features["text"].tolist() for each in found] == [[[1, 2], [3, 4]], [[5, 6]]]
    assert found[0].features["vision"].tolist() == [[5]] and found[1].labels == {"M": -1.0}
    assert len(open_features(path, "test")) == 1
    path.write_text("id,label,text_0\na,1,x\n")
    with pytest.raises(ConfigError, match="column text_0: expected a number, found 'x'"):
        open_features(path)
    path.write_text("id,label,text_0\na,1\n")
    with pytest.raises(ConfigError, match=r"features\.csv:2 has another number of cells"):
        open_features(path)


def dialogues():
    """conv-emotion's IEMOCAP file: two dialogues of three and two utterances."""
    sizes = {"Ses01": 3, "Ses05": 2}
    rng = np.random.default_rng(0)
    each = {width: {key: list(rng.normal(size=(size, width))) for key, size in sizes.items()} for width in (4, 2, 3)}
    speakers = {"Ses01": ["M", "F", "M"], "Ses05": ["F", "F"]}
    labels = {"Ses01": [0, 5, 2], "Ses05": [1, 1]}
    said = {key: ["..."] * size for key, size in sizes.items()}
    return ({key: [] for key in sizes}, speakers, labels, each[4], each[2], each[3], said, ["Ses01"], ["Ses05"])


def test_dialogues_of_conv_emotion(tmp_path):
    found = open_features(write(tmp_path, dialogues(), 2), "train")
    assert len(found) == 1 and found[0].speakers == ("M", "F", "M") and found.widths["text"] == 4
    assert found[0].labels["utterances"].tolist() == [0, 5, 2]
    assert len(open_features(tmp_path / "features.pkl")) == 2
    parts = dialogues()
    parts[2]["Ses01"] = [0]
    with pytest.raises(ConfigError, match=r"dialogue Ses01 has unequal numbers of utterances: .* labels 1"):
        open_features(write(tmp_path, parts), "train")
