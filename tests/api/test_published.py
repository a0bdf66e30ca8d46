"""Published folders: recognised or refused with what was looked for; a damaged checkpoint never gives half a model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import polymodal as pm
from polymodal import systems
from polymodal.api.tensors import check_prompt, within_tables
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.errors import ConfigError, PolymodalError, PromptError, UnknownName, WeightsError

IMAGE = 90
CONFIG = {
    "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_token_index": IMAGE,
    "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                      "image_size": 28, "patch_size": 14},
    "text_config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99},
}  # fmt: skip
PROJECTOR = "multi_modal_projector.linear_1.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A tiny LLaVA as its authors would publish it, every weight random."""
    folder = tmp_path_factory.mktemp("llava")
    model_spec = systems.get("llava-1.5").formats[0].model_spec(CONFIG)
    module = model_spec.build()
    randomise.fill(module)
    write_config(folder, config=CONFIG, generation_config={"eos_token_id": 2, "pad_token_id": 0})
    write_weights(folder, module, model_spec.keys[0])
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "model"))


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def batch(pictures=2):
    words = [5, 6, 7]
    row = [*words, *[IMAGE] * 4, 8, *[IMAGE] * 4, 9]
    return {"input_ids": torch.tensor([row]), "pixel_values": randomise.values("pixels", (pictures, 3, 28, 28))}


def test_a_folder_is_recognised_and_says_what_it_is(folder):
    model = pm.load(folder)
    assert model.system.id == "llava-1.5" and model.path == folder
    assert model.logits(**batch()).shape == (1, 13, 99)
    assert model.features(**batch())["image"].shape == (2, 4, 32)
    ids = model.generate(**batch(), max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert ids.shape == (1, 18) and torch.equal(ids[:, :13], batch()["input_ids"])
    half = pm.load(str(folder), system="LLaVA-1.5", dtype="bfloat16")
    assert half.module.backbone.norm.weight.dtype == torch.bfloat16


def test_without_tokenizer_files_messages_are_refused_in_words(folder):
    with pytest.raises(ConfigError, match=r"logits, features, generate; its folder has no tokenizer files, any of"):
        pm.load(folder).chat("Hello")


@pytest.mark.parametrize("format", ["index", "bin", "bin index"])
def test_every_usual_way_to_store_weights(folder, format):
    expected = pm.load(folder).logits(**batch())
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    halves = [names[::2], names[1::2]]
    if format == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        suffix = "safetensors" if format == "index" else "bin"
        stem = "model" if format == "index" else "pytorch_model"
        places = {}
        for i, half in enumerate(halves, start=1):
            shard = f"{stem}-{i:05}-of-00002.{suffix}"
            places |= {name: shard for name in half}
            part = {name: weights[name] for name in half}
            save_file(part, folder / shard) if suffix == "safetensors" else torch.save(part, folder / shard)
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert torch.equal(pm.load(folder).logits(**batch()), expected)


def rename(weights, old, new):
    for name in [name for name in weights if name.startswith(old)]:
        weights[name.replace(old, new)] = weights.pop(name)


DAMAGE = {
    "one missing": (lambda w: w.pop(PROJECTOR), r"connectors\.image\.layers\.0\.weight.*not filled"),
    "one extra": (lambda w: w.update({"extra.thing": torch.zeros(2)}), r"'extra\.thing' has no row"),
    "one of a wrong shape": (
        lambda w: w.update({PROJECTOR: torch.zeros(3, 32)}),
        r"layers\.0\.weight.*\(32, 32\).*\(3, 32\)",
    ),
    "one of whole numbers": (lambda w: w.update({PROJECTOR: w[PROJECTOR].long()}), rf"{PROJECTOR}.*int64.*floating"),
    "a renamed prefix": (lambda w: rename(w, "vision_tower", "tower"), r"'tower\.vision_model.*no row"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_the_tensor_s_name(folder, name):
    edit, words = DAMAGE[name]
    change(folder, edit)
    with pytest.raises(WeightsError, match=words):
        pm.load(folder)


def test_a_truncated_file_and_an_index_without_its_shard(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"model.safetensors"):
        pm.load(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {PROJECTOR: "model-1.safetensors"}}))
    with pytest.raises(WeightsError, match=r"model-1.safetensors"):
        pm.load(folder)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"model_type": "llavva"}, "no known checkpoint format.*llavva"),
        ({"projector_hidden_act": "gelou"}, "gelou"),
        ({"text_config": {**CONFIG["text_config"], "model_type": "tapir"}}, "tapir"),
        ({"vision_config": 7}, "llava|config"),
        ({"vision_feature_layer": -9}, "layer -9"),
        ({"vision_config": {**CONFIG["vision_config"], "hidden_size": -32}}, "width -32"),
        ({"vision_config": {**CONFIG["vision_config"], "num_attention_heads": 0}}, "heads"),
        (
            {"text_config": {**CONFIG["text_config"], "hidden_size": "wide"}},
            "text_config.hidden_size: expected a whole number of 0 or more, found 'wide'",
        ),
        ({"text_config": {**CONFIG["text_config"], "rope_scaling": {"rope_type": "spiral"}}}, "spiral"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_config_that_is_not_understood_is_refused_by_name(folder, edit, words):
    (folder / "config.json").write_text(json.dumps({**CONFIG, **edit}))
    with pytest.raises(PolymodalError, match=words):
        pm.load(folder)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "preprocessor_config",
            '{"size": "large"}',
            "size: expected a whole number from 1 to 65,536, found str 'large'",
        ),
        ("preprocessor_config", "[]", "preprocessor_config.json: expected a table"),
        ("tokenizer", "[]", "tokenizer.json is not a tokenizer.json"),
        ("tokenizer_config", '{"bos_token": "<nope>"}', "<nope>"),
        ("generation_config", '{"eos_token_id": "x"}', "eos_token_id and pad_token_id must be numbers, found 'x'"),
    ],
)
def test_damaged_files_beside_the_weights_are_named(folder, name, text, words):
    byte_tokenizer(folder, ["<s>", "</s>", "<image>"], bos="<s>", eos="</s>")
    (folder / f"{name}.json").write_text(text)
    with pytest.raises(PolymodalError, match=words):
        pm.load(folder)


def test_folders_that_are_no_models(tmp_path, folder):
    with pytest.raises(WeightsError, match=r"config.json lies beside it, so load the folder"):
        pm.load(folder / "model.safetensors")
    with pytest.raises(WeightsError, match="holds no weights"):
        pm.load(_empty(tmp_path))
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="holds no weights"):
        pm.load(folder)
    (folder / "config.json").write_text("{not json")
    with pytest.raises(WeightsError, match=r"config.json is damaged"):
        pm.load(folder)
    with pytest.raises(WeightsError, match=r"llava-1.5: it reads"):
        pm.load(_with(tmp_path / "bert", {"model_type": "bert"}), system="llava-1.5")
    with pytest.raises(UnknownName):
        pm.load(tmp_path / "nowhere")


def _empty(place):
    (place / "empty").mkdir()
    return place / "empty"


def _with(place, config):
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    return place


def tiled():
    """A tiny LLaVA that reads image_sizes."""
    config = {**CONFIG, "model_type": "llava_next", "architectures": ["LlavaNextForConditionalGeneration"],
              "image_grid_pinpoints": [[28, 56]]}  # fmt: skip
    return systems.get("llava-1.6").formats[0].model_spec(config).build()


def test_an_id_that_an_encoder_has_no_row_for():
    with pytest.raises(PromptError, match="an id is outside the vocabulary"), within_tables():
        torch.nn.Embedding(3, 2)(torch.tensor([3]))


def test_wrong_tensors_are_refused_with_counts_and_what_it_takes(folder):
    model = pm.load(folder)
    with pytest.raises(PromptError, match=r"item 1.*expected 4.*found 0|left over"):
        model.logits(**{**batch(), "pixel_values": batch(1)["pixel_values"]})
    with pytest.raises(PromptError, match="item 2"):
        model.logits(**{**batch(), "pixel_values": batch(3)["pixel_values"]})
    with pytest.raises(PromptError, match="takes text, image; found audio"):
        model.logits(**batch(), audio_values=torch.zeros(1, 80, 3000))
    with pytest.raises(ConfigError, match="image_sizes"):
        model.logits(**batch(), image_sizes=torch.tensor([[28, 28]]))
    with pytest.raises(ConfigError, match="28 x 28 pixels, found 42 x 28"):
        model.logits(**{**batch(), "pixel_values": torch.zeros(2, 3, 42, 28)})
    with pytest.raises(PromptError, match="one of each of the 3 pictures, found 2"):
        check_prompt(tiled(), {"input_ids": batch()["input_ids"], "pixel_values": [0] * 3, "image_sizes": [0] * 2})
    for wrong in (None, torch.tensor([5, 6]), torch.zeros(1, 0, dtype=torch.int64), torch.ones(1, 2)):
        for call in (model.logits, model.generate):
            with pytest.raises(PromptError, match="input_ids: expected whole numbers"):
                call(input_ids=wrong)
    for wrong in (-7, 99, 10**6):
        with pytest.raises(PromptError, match=f"input_ids: {wrong} is outside the vocabulary of 99 ids"):
            model.logits(input_ids=torch.tensor([[5, wrong]]))
    given = {"transcribe": ["examples/speech.flac"], "embed": [["a"]], "classify": ["a", ["b", "c"]]}
    for verb, arguments in given.items():
        with pytest.raises(ConfigError, match=f"cannot {verb}; it takes text, image"):
            getattr(model, verb)(*arguments)
    with pytest.raises(ConfigError, match="num_beems"):
        model.generate(**batch(), num_beems=2)
