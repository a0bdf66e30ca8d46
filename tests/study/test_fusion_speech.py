"""Speech behind the pictures at tiny size: what learns, what stays as it was, what is kept, and what is refused."""

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import polymodal as pm
from polymodal.check import real
from polymodal.data.media import Audio
from polymodal.errors import ConfigError, MediaError
from polymodal.study import fusion_page, hearing, speech_run
from polymodal.study.fusion_run import LEARNED, difference
from polymodal.study.fusion_summary import spread
from polymodal.study.fusion_types import TYPES, added_by_speech
from polymodal.study.hearing import PARTS, heard, joined, recordings, segments, tiny_hearing
from polymodal.study.naming import tiny_subject
from polymodal.study.verdicts import CONFIRMED, REFUTED, UNDECIDED, verdicts

pictures = pytest.mark.skipif(not real.samples_path().is_file(), reason="polymodal check --fetch was not run")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("speech")
    return out, pm.study_fusion(pm.FusionOptions(out=out, quick=True, seeds=2))


@pictures
def test_every_type_hears_and_only_a_with_its_blocks_changes_its_pictures(study: tuple[Path, dict[str, Any]]) -> None:
    speech = study[1]["speech"]
    assert list(speech["types"]) == ["A", "A shared", "B", "C", "D"]
    assert speech["learned"] == 32 and speech["held_out"] == 8 and speech["most_frequent"] == 0.25
    shape, entry = tiny_subject().shape, tiny_hearing().entry
    for key, each in speech["types"].items():
        assert each["added"] == added_by_speech(TYPES[key[0]], shape, entry)
        assert (each["trainable"] == each["added"]) == (key != "A shared")
        assert 0 < each["operations"]["forward"] < each["operations"]["train"]
        assert each["curve"][-1]["samples"] == 30 * 16 and len(each["accuracy"]["values"]) == 2
        assert each["accuracy"]["mean"] > 0.5  # of tones of four pitches; D names fewest
        changed = key == "A shared"
        assert (each["picture_difference"] > 0) == changed and (each["text_difference"] > 0) == changed
        assert changed or each["pictures_before"] == each["pictures_after"]
        assert each["pictures_before"] == study[1]["types"][key[0]]["accuracy"]
    assert speech["types"]["A"]["text_difference_before"] > 0  # the feed-forward half of a gate acts on text alone
    assert speech["types"]["C"]["text_difference_before"] == 0


@pictures
def test_the_page_tells_of_speech(study: tuple[Path, dict[str, Any]]) -> None:
    page = (study[0] / "fusion.html").read_text()
    assert "Speech as a second modality" in page and "mini-a, shared blocks too" in page
    tables = (study[0] / "fusion.md").read_text()
    assert "| largest change of a picture's logits | 0 |" in tables and "recordings learned from" in tables
    without = {**study[1], "speech": None}
    assert "second modality" not in fusion_page.document(without) and "recordings" not in fusion_page.markdown(without)


@pictures
def test_speech_goes_on_from_what_is_there(study: tuple[Path, dict[str, Any]]) -> None:
    out, found = study
    options = pm.FusionOptions(out=out, quick=True, seeds=2)
    results = {path: path.stat().st_mtime_ns for path in sorted(out.glob("runs/*/*/result.json"))}
    assert len(results) == 10 and not list(out.glob(f"runs/*/{LEARNED}"))  # no weights are left behind
    lost = out / "runs/mini-c-1/speech/result.json"
    lost.unlink()  # as a kill leaves it: the pictures come again, since what they learned is gone
    again = pm.study_fusion(options)
    assert {path for path, time in results.items() if path.stat().st_mtime_ns != time} == {lost}
    kept, new = found["speech"]["types"], again["speech"]["types"]
    assert {key: each["accuracy"] for key, each in new.items()} == {key: each["accuracy"] for key, each in kept.items()}


@pictures
@pytest.mark.parametrize("letter", list("ABCD"))
def test_what_pictures_learned_is_all_there_with_speech_beside_it(letter: str, tmp_path: Path) -> None:
    kind, subject, found = TYPES[letter], tiny_subject(), tiny_hearing()
    model = kind.build(subject.shape, subject.weights)
    learned = {name: torch.randn_like(each) for name, each in model.named_parameters() if each.requires_grad}
    save_file(learned, tmp_path / LEARNED)
    small = speech_run.with_pictures(kind, subject, tmp_path / LEARNED)
    large = speech_run.with_both(kind, subject, found, tmp_path / LEARNED)
    before, after = (speech_run.answers(each, subject, kind, "float32") for each in (small, large))
    assert difference(after.pictures, before.pictures) < 1e-5 and difference(after.text, before.text) < 1e-5
    batch = found.naming.rows(kind, found.entry, torch.tensor([0, 25]))
    batch["input_ids"][:, -1] = 8
    for each in load_file(tmp_path / LEARNED):
        assert kind.kept(each) in dict(large.named_parameters())
    logits = large.eval()(**batch).logits[:, -2]
    assert not torch.allclose(logits[0], logits[1])


def test_parts_of_a_recording() -> None:
    assert segments(torch.arange(8.0)[:, None], 4).flatten().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert segments(torch.arange(3.0)[:, None], 3).flatten().tolist() == [0, 1, 2]
    assert segments(torch.tensor([[5.0]]), PARTS).flatten().tolist() == [5.0] * PARTS
    features = torch.randn(413, 3)
    found = segments(features, PARTS)
    assert torch.allclose(found[0], features[:52].mean(0)) and torch.allclose(found[-1], features[361:].mean(0))
    assert torch.equal(joined(found[None])[0, 1], found[2:4].mean(0))


def test_a_recording_that_comes_twice_counts_once() -> None:
    sounds = [np.full(800, value, dtype=np.float32) for value in (0.1, 0.2, 0.1)]
    found, kept = heard(
        [(f"a:{i}", Audio((sound, 16_000))) for i, sound in enumerate(sounds)],
        lambda samples: torch.as_tensor(samples[:80]).view(-1, 1),
        lambda text: None,
    )
    assert kept == [0, 1] and found.shape == (2, PARTS, 1)


def encode(text: str) -> list[int]:
    """A token a letter, the space in front left out."""
    return [ord(letter) for letter in text.strip()]


def written(tmp_path: Path, records: list[dict[str, Any]]) -> Path:
    """A data file whose media are there, if only as empty files."""
    path = tmp_path / "orders.jsonl"
    for name in (record.get(key) for record in records for key in ("audio", "image")):
        if name is not None and name != "gone.wav":
            (tmp_path / name).touch()
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"text": "tea"}], r"orders.jsonl:1: expected a recording and its label, found no medium and no text; give"),
        ([{"image": "a.png", "text": "tea"}], "expected a recording and its label, found image and a text"),
        ([{"audio": "a.wav", "text": "tea"}, {"audio": "b.wav", "text": "tonic"}],
         "labels that differ in their first token; found 'tea' and 'tonic', which begin with the same; rename one"),
        ([{"audio": "a.wav", "text": "tea"}] * 5, "expected two labels or more, 5 recordings of each .* found 1 label"),
        ([{"audio": "a.wav", "text": "tea"}] * 5 + [{"audio": "b.wav", "text": "milk"}] * 4,
         "expected two labels or more, 5 recordings of each at least; found 4 of 'milk'; add recordings or leave"),
    ],
)  # fmt: skip
def test_mistakes_in_the_file_are_told(tmp_path: Path, records: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        recordings(written(tmp_path, records), encode)
    assert "\n" not in str(raised.value)


def test_recordings_that_are_not_there_or_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"orders.jsonl:1: there is no file .*gone.wav; --media-root says"):
        recordings(written(tmp_path, [{"audio": "gone.wav", "text": "tea"}]), encode)
    records = [{"audio": "a.wav", "text": text} for text in ("tea", "milk") for _ in range(5)]
    found, answers, labels = recordings(written(tmp_path, records), encode)
    assert labels == {ord("t"): "tea", ord("m"): "milk"} and answers == [ord("t")] * 5 + [ord("m")] * 5
    with pytest.raises(MediaError, match=r"^orders.jsonl:1: ") as raised:
        heard(found, lambda samples: torch.zeros(1, 1), lambda text: None)
    assert "\n" not in str(raised.value)


@pictures
@pytest.mark.parametrize(
    ("a", "c", "difference", "expected"),
    [
        ([0.3, 0.31], [0.5, 0.51], 0.0, {"A": CONFIRMED, "B": CONFIRMED, "C": CONFIRMED}),
        ([0.5, 0.51], [0.3, 0.31], 0.0, {"A": REFUTED, "B": CONFIRMED, "C": CONFIRMED}),
        ([0.3, 0.31], [0.1, 0.31], 0.0, {"A": UNDECIDED, "B": CONFIRMED, "C": UNDECIDED}),
        ([0.3, 0.31], [0.5, 0.51], 0.1, {"A": CONFIRMED, "B": REFUTED, "C": REFUTED}),
    ],
)
def test_verdicts_on_a_further_modality(
    study: tuple[Path, dict[str, Any]], a: list[float], c: list[float], difference: float, expected: dict[str, str]
) -> None:
    claims = {
        "A": "a further modality is hard to add",
        "B": "modalities can be added at the input",
        "C": "easy to extend",
    }
    types = {key: {**each, "picture_difference": difference} for key, each in study[1]["speech"]["types"].items()}
    for key, values in (("A", a), ("B", [0.4, 0.41]), ("C", c)):
        types[key] = {**types[key], "accuracy": spread(values), "parameters": 10_000_000}
    rows = verdicts({**study[1], "speech": {**study[1]["speech"], "types": types}})
    assert {row["type"]: row["verdict"] for row in rows if row["claim"] == claims.get(row["type"])} == expected
    assert not any("was not run" in row["because"] for row in rows)
    counted = verdicts({**study[1], "speech": None})
    assert sum("was not run" in row["because"] for row in counted) == 3


def test_real_recordings_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way of `--speech FILE` with an encoder of our own: nothing is fetched."""

    class Words:
        encode = staticmethod(encode)
        special = staticmethod(lambda name: 6)

    generator = np.random.default_rng(0)
    names = [*range(12), 0]  # the first recording comes twice
    records = [{"audio": f"{name}.wav", "text": "tea" if name % 2 else "milk"} for name in names]
    data, calls = written(tmp_path, records), []
    for index in range(12):
        with wave.open(str(tmp_path / f"{index}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((generator.standard_normal(4000) * 3000).astype("<i2").tobytes())

    def read(samples: Any) -> torch.Tensor:
        calls.append(len(samples))
        return torch.as_tensor(samples).view(-1, 40)

    monkeypatch.setattr(hearing, "open_source", lambda source: type("File", (), {"metadata": {}}))
    monkeypatch.setattr(hearing.Tokenizer, "from_gguf", lambda metadata: Words())
    monkeypatch.setattr(hearing, "whisper", lambda: (read, 77))
    found = hearing.real_hearing(data, tmp_path / "cache", 512, lambda text: None)
    again = hearing.real_hearing(data, tmp_path / "cache", 512, lambda text: None)
    assert len(calls) == 12 and found.repeated == 1 and found.encoder == 77
    assert found.entry.codes == 2 and found.naming.codes.max() == 1  # few recordings, few codes
    assert found.naming.held_out.sum() == 2 and found.naming.names == {ord("m"): "milk", ord("t"): "tea"}
    assert torch.equal(found.naming.codes, again.naming.codes) and again.entry == found.entry
