"""Tasks whose answers are no words, with models of the catalogue: spans, sentiment, CLIP score, Fréchet distance."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from test_predict import loaded as mult

import polymodal as pm
from polymodal.api.evaluation import measure
from polymodal.errors import ConfigError
from polymodal.evaluate.frechet import frechet_distance
from tiny_clip import tiny_clip
from tiny_folders import tiny
from tiny_video import video

transformers = pytest.importorskip("transformers")


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "samples.jsonl").open()]


def test_sentiment_of_a_model_with_a_head(tmp_path: Path) -> None:
    model = mult(tmp_path, 1)
    generator = np.random.default_rng(0)
    sizes = {"text": (6, 12), "audio": (9, 7), "vision": (4, 5)}
    rows, expected = [], []
    for number in range(3):
        features = {name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()}
        np.save(tmp_path / f"{number}.npy", features["text"])
        rows.append({"label": number - 1.0, "text": f"{number}.npy", "vision": features["vision"].tolist(),
                     "audio": features["audio"][: 9 - number].tolist()})  # fmt: skip
        features["audio"] = features["audio"][: 9 - number]
        expected.append(
            model.predict(**{name: torch.from_numpy(each)[None] for name, each in features.items()})["score"]
        )
    found = measure(model, "sentiment", write(tmp_path / "data.jsonl", rows), out=tmp_path / "out")
    said = [line["prediction"] for line in lines(tmp_path / "out")]
    assert said == pytest.approx(torch.cat(expected).tolist(), abs=1e-6)
    assert found.metrics[0].value == pytest.approx(np.abs(np.array(said) - [-1, 0, 1]).mean(), abs=1e-6)
    words = write(tmp_path / "words.jsonl", [{"label": 1.0, "text": "It was good."}])
    with pytest.raises(ConfigError, match=r"words.jsonl:1 has no features; a model that predicts needs text, audio"):
        measure(model, "sentiment", words, out=tmp_path / "words")


def test_moments_that_a_chat_model_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    model = tiny("qwen2-vl", tmp_path / "folder")
    (tmp_path / "a.mp4").write_bytes(video())  # 2 s
    rows = [{"video": "a.mp4", "query": f"event {number}", "span": [0.5, 1.5]} for number in range(3)]
    data = write(tmp_path / "data.jsonl", rows)
    found = measure(model, "moments", data, out=tmp_path / "real")
    assert found.n == 3 and all(isinstance(line["prediction"], list) for line in lines(tmp_path / "real"))
    answers = ["From 0.5 to 1.5 seconds.", "It happens at {0.25,0.50}.", "I cannot tell."]

    def chat_batch(self, talks: list, **how: object) -> list:
        assert all("Answer with the start and the end in seconds" in question for _, question in talks)
        return [SimpleNamespace(text=answer) for answer in answers[: len(talks)]]

    monkeypatch.setattr(pm.Model, "chat_batch", chat_batch)
    found = measure(model, "moments", data, out=tmp_path / "out")
    said = [line["prediction"] for line in lines(tmp_path / "out")]
    assert said[0] == [[0.5, 1.5]] and said[1][0] == pytest.approx([0.5, 1.0], abs=0.06) and said[2] == []
    values = {metric.name: metric.value for metric in found.metrics}
    assert values["R@1, IoU=0.7"] == pytest.approx(1 / 3) and values["R@1, IoU=0.3"] == pytest.approx(2 / 3)
    only = write(tmp_path / "spans.jsonl", [{"span": [0, 1]}])
    with pytest.raises(ConfigError, match="lacks video, query, which moments needs"):
        measure(model, "moments", only, out=tmp_path / "only")
    given = write(tmp_path / "given.jsonl", [{"prediction": [[0, 1]]}])
    assert measure(None, "moments", only, out=tmp_path / "given", predictions=given).metrics[0].value == 1


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def test_clip_score_and_distance_with_an_encoder_of_the_catalogue(clip: Path, tmp_path: Path) -> None:
    model = pm.load(clip)
    rows = []
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 255, (40, 30, 3), np.uint8)
        Pillow.fromarray(noise).save(tmp_path / f"{number}.png")
        Pillow.fromarray(255 - noise // 2).save(tmp_path / f"made{number}.png")
        rows.append({"image": f"{number}.png", "made": f"made{number}.png", "text": "a cat" if number % 2 else "dogs"})
    data = write(tmp_path / "data.jsonl", rows)
    vectors = {name: model.embed([tmp_path / row[name] for row in rows]) for name in ("image", "made")}
    texts = model.embed([pm.text(row["text"]) for row in rows])
    cosines = (vectors["image"] * texts).sum(1)
    score = measure(model, "clip-score", data, out=tmp_path / "score")
    assert [line["prediction"] for line in lines(tmp_path / "score")] == pytest.approx(cosines.tolist(), abs=1e-5)
    assert score.metrics[0].value == pytest.approx(100 * cosines.clamp(min=0).mean().item(), abs=1e-3)
    found = measure(model, "generation", data, out=tmp_path / "distance")
    expected = frechet_distance(vectors["image"].numpy(), vectors["made"].numpy())
    assert found.metrics[0].value == pytest.approx(expected, rel=1e-4, abs=1e-6) and found.n == 4
    with pytest.raises(ConfigError, match="lacks features, which generation needs"):
        measure(None, "generation", data, out=tmp_path / "no", predictions=data)
