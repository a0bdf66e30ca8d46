"""llama.cpp's files load as the models they were made of: logits equal those of transformers."""

import json

import gguf
import pytest
import torch
import transformers
from llama_cpp_files import KINDS, add_metadata, finish, write_llava, write_qwen2_vl, write_text

import polymodal as pm
from polymodal.errors import ConfigError, WeightsError

TINY = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
IDS = torch.randint(3, 90, (2, 40), generator=torch.Generator().manual_seed(0))


def random(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter random, norms and biases too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, x in model.named_parameters():
            scale = 1.0 if "norm" in name and x.dim() == 1 else 0.0
            x.copy_(torch.randn(x.shape, generator=generator) * 0.15 + scale)
    return model.eval()


def text_model(arch: str, **more) -> torch.nn.Module:
    if arch == "qwen2":
        return random(transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**TINY, **more)))
    return random(transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY, **more)))


@pytest.mark.parametrize(
    ("arch", "more"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 32, "rms_norm_eps": 1e-3}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
        ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen2", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
                                       "original_max_position_embeddings": 64}}),
    ],
)  # fmt: skip
def test_a_language_model(tmp_path, arch, more):
    reference = text_model(arch, **more)
    write_text(tmp_path / "tiny.gguf", reference.state_dict(), reference.config, arch)
    model = pm.load(tmp_path / "tiny.gguf")
    with torch.no_grad():
        wanted = reference(input_ids=IDS).logits
    assert (model.logits(input_ids=IDS) - wanted).abs().max() <= 1e-4
    assert model.can == ("logits", "features", "generate") and model.name == "language-model:tiny.gguf"
    assert torch.equal(pm.load(tmp_path).logits(input_ids=IDS), model.logits(input_ids=IDS))
    written = reference.generate(IDS, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert torch.equal(model.generate(input_ids=IDS, max_new_tokens=8), written)


def test_a_mistral_keeps_its_window(tmp_path):
    config = transformers.MistralConfig(**TINY, sliding_window=8)
    reference = random(transformers.MistralForCausalLM(config))
    write_text(tmp_path / "tiny.gguf", reference.state_dict(), config, metadata={"llama.attention.sliding_window": 8})
    model = pm.load(tmp_path / "tiny.gguf")
    with torch.no_grad():
        assert (model.logits(input_ids=IDS) - reference(input_ids=IDS).logits).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0"])
@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_blocks_are_read_as_the_numbers_they_stand_for(tmp_path, arch, kind):
    reference = text_model(arch)
    back = write_text(tmp_path / "tiny.gguf", reference.state_dict(), reference.config, arch, kind=KINDS[kind])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(back[name], reference.state_dict()[name])
    reference.load_state_dict(back)
    with torch.no_grad():
        wanted = reference(input_ids=IDS).logits
    model = pm.load(tmp_path / "tiny.gguf", dtype="float32")
    assert (model.logits(input_ids=IDS) - wanted).abs().max() <= 1e-4


def llava_model(vocab_size: int = 96, **more) -> torch.nn.Module:
    """With one row more for the placeholder."""
    vision = transformers.CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3, patch_size=14,
                                           num_attention_heads=4, image_size=28, layer_norm_eps=1e-4)  # fmt: skip
    config = transformers.LlavaConfig(vision_config=vision, text_config=transformers.LlamaConfig(**TINY),
                                      image_token_index=vocab_size, **more)  # fmt: skip
    config.text_config.vocab_size = vocab_size + 1
    return random(transformers.LlavaForConditionalGeneration(config))


def below(tensors, prefix, instead=""):
    """Those below a prefix, under another."""
    return {instead + name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def write_both(folder, model, *, vocab_size=96, layer=2, newer=False, metadata=None, text_metadata=None) -> None:
    """A language model without the row of the placeholder, as vicuna's vocabulary has none, and its mmproj."""
    state = {name.removeprefix("model."): x for name, x in model.state_dict().items()}
    text = {"lm_head.weight": state["lm_head.weight"], **below(state, "language_model.", "model.")}
    text = {name: x[:vocab_size] if len(x) == vocab_size + 1 else x for name, x in text.items()}
    config = transformers.LlamaConfig(**{**TINY, "vocab_size": vocab_size})
    write_text(folder / "ggml-model.gguf", text, config, metadata=text_metadata)
    rest = {name: x for name, x in state.items() if not name.startswith(("language_", "lm_head"))}
    vision = model.config.vision_config
    write_llava(folder / "mmproj-model.gguf", rest, vision, layer, metadata=metadata or {}, newer=newer)


def pictured(model) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[5, 96, 96, 96, 96, 7, 8, 9], [96, 96, 96, 96, 11, 12, 13, 14]])
    generator = torch.Generator().manual_seed(2)
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 28, 28, generator=generator)}


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize(
    "metadata", [{}, {"clip.vision.feature_layer": [2]}, {"clip.vision.image_aspect_ratio": "pad"}]
)
def test_llava_with_its_mmproj(tmp_path, newer, metadata):
    reference = llava_model()
    write_both(tmp_path, reference, newer=newer, metadata=metadata)
    model, batch = pm.load(tmp_path), pictured(reference)
    assert model.system.id == "llava-1.5" and len(model.module.encoders["image"].blocks) == 2
    with torch.no_grad():
        wanted = reference(**batch).logits
    # The last row belongs to the placeholder, which this vocabulary does not have.
    assert (model.logits(**batch) - wanted[..., :96]).abs().max() <= 1e-4


def test_several_feature_layers(tmp_path):
    reference = llava_model(vision_feature_layer=[1, 3])
    write_both(tmp_path, reference, layer=3, metadata={"clip.vision.feature_layer": [1, 3]})
    batch = pictured(reference)
    with torch.no_grad():
        assert (pm.load(tmp_path).logits(**batch) - reference(**batch).logits[..., :96]).abs().max() <= 1e-4


def test_qwen2_vl_with_its_mmproj(tmp_path):
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    vision = {"depth": 2, "embed_dim": 48, "num_heads": 3, "hidden_size": 64, "mlp_ratio": 2, "patch_size": 4}
    config = transformers.Qwen2VLConfig(
        text_config={**TINY, "rope_parameters": rope}, vision_config=vision, image_token_id=90, video_token_id=91,
        vision_start_token_id=92, vision_end_token_id=93,
    )  # fmt: skip
    reference = random(transformers.Qwen2VLForConditionalGeneration(config))
    state = reference.state_dict()
    plain = below(state, "model.language_model.", "model.") | {"lm_head.weight": state["lm_head.weight"]}
    names = [f"t{i}" for i in range(96)]
    names[90], names[91] = "<|image_pad|>", "<|video_pad|>"
    said = {"tokenizer.ggml.tokens": names}
    write_text(tmp_path / "tiny.gguf", plain, config.text_config, "qwen2vl", metadata=said)
    write_qwen2_vl(tmp_path / "mmproj.gguf", below(state, "model.visual."), config.vision_config)
    ids = torch.tensor([[5, 92, 90, 90, 93, 7, 8], [92, 90, 93, 11, 12, 13, 14]])
    grid = torch.tensor([[1, 2, 4], [1, 2, 2]])
    batch = {"input_ids": ids, "pixel_values": torch.randn(12, 3 * 2 * 4 * 4), "image_grid_thw": grid,
             "attention_mask": torch.ones_like(ids)}  # fmt: skip
    types = (ids == 90).long()
    with torch.no_grad():
        wanted = reference(**batch, mm_token_type_ids=types).logits
    model = pm.load(tmp_path)
    assert model.system.id == "qwen2-vl"
    assert (model.logits(**batch) - wanted).abs().max() <= 1e-4


def test_parts_of_a_file_are_read_as_one(tmp_path):
    reference = text_model("llama")
    whole = tmp_path / "whole.gguf"
    write_text(whole, reference.state_dict(), reference.config)
    opened = gguf.GGUFReader(whole)
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in (1, 2):
        part = gguf.GGUFWriter(folder / f"tiny-0000{number}-of-00002.gguf", "llama")
        if number == 1:
            said = {name: field.contents() for name, field in opened.fields.items() if name.startswith("llama.")}
            add_metadata(part, said)
        for tensor in opened.tensors[number - 1 :: 2]:
            part.add_tensor(tensor.name, tensor.data)
        finish(part)
    for path in (folder, folder / "tiny-00001-of-00002.gguf"):
        assert torch.equal(pm.load(path).logits(input_ids=IDS), pm.load(whole).logits(input_ids=IDS))
    (folder / "tiny-00002-of-00002.gguf").unlink()
    with pytest.raises(WeightsError, match=r"tiny-00002-of-00002.gguf: there is no such file"):
        pm.load(folder)


def saved_text(path, metadata=None, **more) -> None:
    reference = text_model("llama", **more)
    write_text(path, reference.state_dict(), reference.config, metadata=metadata)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"llama.expert_count": 8}, r"llama.expert_count '8' is not supported; load the checkpoint's safetensors"),
        ({"llama.rope.scaling.type": "longrope"}, "llama.rope.scaling.type 'longrope' is not supported"),
        ({"llama.attention.clamp_kqv": 8.0}, "the setting llama.attention.clamp_kqv is not supported"),
        ({"llama.attention.head_count_kv": [2, 2]}, r"head_count_kv is \[2, 2\], expected a number"),
        ({"llama.attention.sliding_window": "wide"}, "sliding_window is wide, expected a number"),
        ({"general.architecture": "gemma3"}, r"architecture 'gemma3' is not read \(llama, qwen2, qwen2vl are\)"),
        ({"general.architecture": "qwen2vl"}, "is the language half of Qwen2-VL"),
        ({"general.architecture": "clip"}, "is an mmproj, one half of a model"),
        ({"llama.context_length": None}, "the metadata llama.context_length is missing"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_told_in_one_line(tmp_path, metadata, words, monkeypatch):
    saved_text(tmp_path / "tiny.gguf")
    from polymodal.checkpoints import gguf as formats

    real = formats.read_gguf

    def changed(path):
        found = real(path)
        kept = {name: value for name, value in {**found.metadata, **metadata}.items() if value is not None}
        return type(found)(found.path, found.format, found.infos, found.load, kept)

    monkeypatch.setattr(formats, "read_gguf", changed)
    with pytest.raises(WeightsError, match=words) as caught:
        pm.load(tmp_path / "tiny.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"clip.projector_type": "resampler"}, r"projector_type 'resampler' is not read \(mlp, qwen2vl_merger are\)"),
        ({"clip.projector_type": "qwen2vl_merger"}, "belongs to the architecture 'qwen2vl', ggml-mo"),
        ({"clip.vision.image_grid_pinpoints": [336, 672]}, "pictures in tiles"),
        ({"clip.vision.mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type 'spatial_unpad' is not supported"),
        ({"clip.use_silu": True}, "clip.use_silu 'True' is not supported"),
        ({"clip.vision.n_wa_pattern": 8}, "setting clip.vision.n_wa_pattern is not supported"),
        ({"clip.vision.patch_size": None}, "metadata clip.vision.patch_size is missing"),
    ],
)  # fmt: skip
def test_an_mmproj_that_is_not_read_is_told_in_one_line(tmp_path, metadata, words):
    write_both(tmp_path, llava_model(), metadata=metadata)
    with pytest.raises(WeightsError, match=words) as caught:
        pm.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_several_models_in_a_folder_are_not_guessed(tmp_path):
    write_both(tmp_path, llava_model())
    saved_text(tmp_path / "other.gguf")
    with pytest.raises(WeightsError, match=r"holds 2 GGUF models \(ggml-model.gguf, other.gguf\); name the file"):
        pm.load(tmp_path)
    assert pm.load(tmp_path / "other.gguf").name == "language-model:other.gguf"
    with pytest.raises(WeightsError, match=r"mmproj-model.gguf is an mmproj"):
        pm.load(tmp_path / "mmproj-model.gguf")


def test_a_folder_with_other_weights_is_not_llama_cpps(tmp_path):
    reference = text_model("llama")
    reference.save_pretrained(tmp_path)
    saved_text(tmp_path / "tiny.gguf", {"llama.expert_count": 8})
    with torch.no_grad():
        assert (pm.load(tmp_path).logits(input_ids=IDS) - reference(input_ids=IDS).logits).abs().max() <= 1e-4


def test_saved_and_loaded_again(tmp_path):
    saved_text(tmp_path / "tiny.gguf")
    model = pm.load(tmp_path / "tiny.gguf")
    back = pm.load(model.save(tmp_path / "saved"))
    assert torch.equal(back.logits(input_ids=IDS), model.logits(input_ids=IDS)) and back.name == model.name
    assert "gguf" in json.loads((tmp_path / "saved" / "polymodal.json").read_text())["config"]


def test_the_system_that_reads_it_can_be_named(tmp_path):
    saved_text(tmp_path / "tiny.gguf")
    assert pm.load(tmp_path / "tiny.gguf", system="bayling").name == "bayling:tiny.gguf"
    with pytest.raises((WeightsError, ConfigError), match=r"of llava-1.5: it reads"):
        pm.load(tmp_path / "tiny.gguf", system="llava-1.5")
