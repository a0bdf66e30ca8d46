"""What people give: whatever can only be media is taken as that, and a mistake is one line that names the argument."""

import json
import pickle
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal.check.demo import byte_tokenizer
from polymodal.errors import ConfigError, MediaError, PolymodalError, PromptError
from polymodal.generation.sampling import SamplingOptions
from polymodal.pipelines.classification import scorer

TINY = str(Path(__file__).parents[1] / "cli" / "tiny_system.py")
PIXELS = numpy.random.default_rng(1).integers(0, 255, (20, 24, 3), dtype=numpy.uint8)
SAMPLES = numpy.random.default_rng(2).uniform(-1, 1, 800).astype("float32")


@pytest.fixture(scope="module")
def model():
    return pm.load(TINY)


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("media") / "photo.png"
    Image.fromarray(PIXELS).save(path)
    return path


def pictures(photo: Path) -> dict[str, object]:
    """The same pixels in every form that can only be a picture."""
    return {
        "path": photo,
        "bytes": photo.read_bytes(),
        "PIL": Image.open(photo),
        "numpy": PIXELS,
        "torch": torch.from_numpy(PIXELS),
        "torch, channels first": torch.from_numpy(PIXELS).permute(2, 0, 1),
        "record": pm.image(torch.from_numpy(PIXELS).permute(2, 0, 1)),
    }


def recordings() -> dict[str, object]:
    return {
        "numpy": (SAMPLES, 8000),
        "torch": (torch.from_numpy(SAMPLES).requires_grad_(), 8000),
        "numpy rate": (SAMPLES, numpy.int64(8000)),
        "record": pm.audio((torch.from_numpy(SAMPLES), 8000)),
    }


def test_a_picture_in_any_form_is_that_picture(model, photo):
    want = model.chat(pm.image(photo), "What?", max_tokens=4).text
    ranked, vector = model.classify(pm.image(photo), ["a", "b"]), model.embed([pm.image(photo)])
    for name, form in pictures(photo).items():
        assert model.chat(form, "What?", max_tokens=4).text == want, name
        message = {"role": "user", "content": [form, "What?"]}
        typed = {"role": "user", "content": [{"type": "image", "image": form}, {"type": "text", "text": "What?"}]}
        assert model.chat([message], max_tokens=4).text == model.chat([typed], max_tokens=4).text == want, name
        assert [each.text for each in model.chat_batch([(form, "What?")], max_tokens=4)] == [want], name
        assert model.classify(form, ["a", "b"]) == ranked and model.classify([form], ["a", "b"]) == [ranked], name
        assert torch.equal(model.embed([form]), vector), name


def test_a_recording_in_any_form_is_that_recording(model):
    want = model.chat(pm.audio((SAMPLES, 8000)), "What?", max_tokens=4).text
    for name, form in recordings().items():
        assert model.transcribe(form).text == model.transcribe(pm.audio((SAMPLES, 8000))).text, name
        assert model.chat(form, "What?", max_tokens=4).text == want, name
        assert model.chat([{"role": "user", "content": form}], max_tokens=4).tokens["audio"] == 4, name
        assert [each.text for each in model.chat_batch([(form, "What?")], max_tokens=4)] == [want], name
        assert len(model.classify(form, ["a", "b"])) == 2, name


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m: m.chat(SAMPLES, "?"), r"an array of float32 \[800\] could be several things; say which"),
        (lambda m: m.chat(torch.rand(3, 8, 8), "?"), r"float32 \[8, 8, 3\] could be several things"),
        (lambda m: m.chat("?", {1}), "expected text, media or a mapping with a type, found set"),
        (lambda m: m.transcribe(SAMPLES), r"samples need their rate; give \(samples, rate\)"),
        (lambda m: m.transcribe(Image.fromarray(PIXELS)), "has no sound to transcribe"),
        (lambda m: m.transcribe(7), "int has no sound to transcribe"),
        (lambda m: m.classify(7, ["a", "b"]), "expected a path or media such as pm.image"),
        (lambda m: m.classify(PIXELS, ["a", "a"]), "two or more different labels"),
        (lambda m: m.classify(PIXELS, [1, 2]), "two or more different labels"),
        (lambda m: m.embed(PIXELS), "embed needs a list of at least one item, found ndarray"),
        (lambda m: m.embed((SAMPLES, 8000)), "embed needs a list"),
        (lambda m: m.embed(["hello"]), r"there is no file hello; a str names a file here, .* as pm.text"),
        (lambda m: m.embed([]), "embed needs a list of at least one item, found none"),
        (lambda m: m.chat("Hi", max_tokens="5"), "max_tokens: expected 1 or more, found '5'"),
        (lambda m: m.chat("Hi", max_tokens=True), "max_tokens: expected 1 or more, found True"),
        (lambda m: m.chat("Hi", max_tokens=2.5), "max_tokens: expected 1 or more, found 2.5"),
        (lambda m: m.chat("Hi", max_tokens=None), "max_tokens: expected 1 or more, found None"),
        (lambda m: m.chat("Hi", temperature="hot"), "temperature: expected 0"),
        (lambda m: m.chat("Hi", temperature=None), "temperature: expected 0"),
        (lambda m: m.chat("Hi", seed="5"), "seed: expected None or from 0"),
        (lambda m: m.chat("Hi", seed=1.5), "seed: expected None or from 0"),
        (lambda m: m.chat("Hi", seed=2**63), "seed: expected None or from 0"),
        (lambda m: m.chat("Hi", stop=5), "stop: expected texts"),
        (lambda m: m.chat("Hi", top_k="x"), "top_k: expected"),
        (lambda m: m.chat("Hi", beams="2"), "beams: expected"),
        (lambda m: m.chat("Hi", logprobs="2"), "logprobs: expected"),
        (lambda m: m.chat("Hi", rules=3), "rules: expected LogitRules"),
        (lambda m: m.chat("Hi", n=2), "'n'"),
        (lambda m: m.chat("Hi", options={"max_tokens": 3}), "options: expected SamplingOptions, found dict"),
        (lambda m: m.chat_batch(["Hi"], batch_size="2"), "batch_size: expected 1 or more, found '2'"),
        (lambda m: m.embed([PIXELS], batch_size=0), "batch_size: expected 1 or more, found 0"),
        (lambda m: m.embed([PIXELS], batch_size="2"), "batch_size: expected 1 or more, found '2'"),
        (lambda m: pickle.dumps(m), "cannot be pickled or copied; call pm.load in each process"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_argument(model, ask, words):
    with pytest.raises(PolymodalError, match=words) as caught:
        ask(model)
    assert "\n" not in str(caught.value)


def test_a_text_that_names_a_file_is_asked_about(model, photo, monkeypatch):
    monkeypatch.chdir(photo.parent)
    with pytest.raises(
        PromptError, match=r"'photo.png' is a file here; give pm.image\('photo.png'\) or a Path, or pm.te"
    ):
        model.chat("photo.png", "What is this?", max_tokens=1)
    with pytest.raises(PromptError, match=r"conversations\[0\]: .* is a file here"):
        model.chat_batch([(str(photo), "What is this?")], max_tokens=1)
    assert model.chat(pm.text("photo.png"), "What is this?", max_tokens=1).tokens["text"] > 0
    (photo.parent / "Hello").touch()
    for words in ("Hello", "other.png", "x" * 5000, "a\0.png", "What is photo.png?"):
        model.chat(words[:200], max_tokens=1)
    with pytest.raises(MediaError, match="no file"):
        model.chat(Path("other.png"), "What is this?", max_tokens=1)


def test_the_coldest_temperature_is_the_likeliest_token(model):
    want = model.chat("Hi", max_tokens=5).text
    for temperature in (1e-38, 1e-30, 5e-324):
        assert model.chat("Hi", temperature=temperature, seed=0, max_tokens=5).text == want


def test_numbers_of_numpy_are_numbers(model):
    options = SamplingOptions(max_tokens=numpy.int64(3), temperature=numpy.float32(0.5), seed=numpy.int64(2))
    assert model.chat("Hi", options=options).text == model.chat("Hi", max_tokens=3, temperature=0.5, seed=2).text


def test_a_token_that_the_model_has_no_row_for_is_named(tmp_path):
    transformers = pytest.importorskip("transformers")
    size = byte_tokenizer(tmp_path, ["<unk>", "<s>", "</s>", "<image>"], bos="<s>", eos="</s>", pad="</s>")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**sizes, num_hidden_layers=2, image_size=28, patch_size=14),
        text_config=transformers.LlamaConfig(**sizes, vocab_size=size, num_hidden_layers=1),
        image_token_index=3,
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    table = json.loads((tmp_path / "tokenizer.json").read_text())
    table["added_tokens"].append(
        {"id": size, "content": "tool", "special": False, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
    )  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    model = pm.load(tmp_path)
    words = f"the token 'tool' has the id {size}, but the model knows {size} tokens"
    with pytest.raises(PromptError, match=words):
        model.chat("use tool now", max_tokens=1)
    with pytest.raises(PromptError, match=rf"conversations\[1\]: {words}"):
        model.chat_batch(["Hi", "use tool now"], max_tokens=1)


def test_two_classes_of_one_name_count_together():
    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, pixel_values: torch.Tensor) -> object:
            return type("Output", (), {"logits": torch.tensor([[1.0, 2.0, 0.5, 3.0]])})

    score = scorer(Classifier(), lambda _: torch.zeros(3, 2, 2), ["crane", "cat", "dog", "crane"])
    odds = torch.tensor([1.0, 2.0, 0.5, 3.0]).exp()
    found = score([pm.image(PIXELS)], ["crane", "dog", "cat"])
    torch.testing.assert_close(found, torch.stack([odds[0] + odds[3], odds[2], odds[1]])[None] / odds.sum())
    with pytest.raises(ConfigError, match="'owl' is not one of them"):
        score([pm.image(PIXELS)], ["crane", "owl"])
