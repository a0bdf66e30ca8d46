"""A head that a config ties but whose file gives it values of its own is used as it is, as transformers does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import polymodal as pm
from polymodal.check import library, randomise
from polymodal.check.compare import max_abs_error
from polymodal.check.evidence import fuyu_8b, idefics, kosmos_2, qwen2_vl
from polymodal.errors import WeightsError

pytest.importorskip("transformers")

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48, "tie_word_embeddings": True}  # fmt: skip
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
          "image_size": 16, "patch_size": 8}  # fmt: skip
IDS = torch.tensor([[1, 5, 9, 3, 7], [1, 4, 4, 8, 2]])
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BLIP_BIAS, BLIP_HEAD = (f"text_decoder.cls.predictions.decoder.{leaf}" for leaf in ("bias", "weight"))


def decoder(name: str, **settings: Any) -> tuple[str, Callable[[Any], Any], dict[str, Tensor]]:
    return f"{name}ForCausalLM", lambda t: getattr(t, f"{name}Config")(**settings), {"input_ids": IDS}


def blip(t: Any) -> Any:
    text = {**SMALL, "encoder_hidden_size": 32, "bos_token_id": 60, "sep_token_id": 61, "pad_token_id": 0}
    return t.BlipConfig(vision_config=VISION, text_config=text, tie_word_embeddings=True)


def vilt(t: Any) -> Any:
    return t.ViltConfig(**SMALL, image_size=16, patch_size=8, type_vocab_size=2)


def blip_2(t: Any) -> Any:
    text = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
            "vocab_size": 64, "decoder_start_token_id": 0, "tie_word_embeddings": True}  # fmt: skip
    queries = {**SMALL, "encoder_hidden_size": 32, "cross_attention_frequency": 1}
    return t.Blip2Config(vision_config=VISION, qformer_config=queries, text_config=text, num_query_tokens=4,
                         image_token_index=63)  # fmt: skip


def llava(t: Any) -> Any:
    vision = {"model_type": "clip_vision_model", **VISION}
    return t.LlavaConfig(vision_config=vision, text_config={"model_type": "llama", **SMALL}, image_token_index=63,
                         tie_word_embeddings=True)  # fmt: skip


FEATURES = torch.tensor([[63, 63, 63, 63, 5, 9], [63, 63, 63, 63, 4, 8]])
DECODED = {"input_ids": FEATURES, "pixel_values": PIXELS, "decoder_input_ids": IDS}
CASES = {
    "llama": (*decoder("Llama", **SMALL), ("lm_head.weight",)),
    "bloom": (*decoder("Bloom", vocab_size=64, hidden_size=32, n_layer=2, n_head=4), ("lm_head.weight",)),
    "vilt": ("ViltForMaskedLM", vilt, {"input_ids": IDS, "pixel_values": PIXELS}, ("mlm_score.decoder.weight",)),
    "blip captions": ("BlipForConditionalGeneration", blip, {"input_ids": IDS, "pixel_values": PIXELS}, (BLIP_HEAD,)),
    "blip captions, its bias too": (
        "BlipForConditionalGeneration", blip, {"input_ids": IDS, "pixel_values": PIXELS}, (BLIP_HEAD, BLIP_BIAS)
    ),
    "blip captions, the bias alone": (
        "BlipForConditionalGeneration", blip, {"input_ids": IDS, "pixel_values": PIXELS}, (BLIP_BIAS,)
    ),
    "t5 in blip-2": ("Blip2ForConditionalGeneration", blip_2, DECODED, ("language_model.lm_head.weight",)),
    "llava": ("LlavaForConditionalGeneration", llava, {"input_ids": FEATURES, "pixel_values": PIXELS},
              ("language_model.lm_head.weight",)),
    "kosmos-2": ("Kosmos2ForConditionalGeneration", lambda t: kosmos_2.tiny(t, {}, {}), kosmos_2.inputs,
                 ("text_model.lm_head.weight",)),
    "qwen2-vl": ("Qwen2VLForConditionalGeneration", lambda t: qwen2_vl.tiny(t, {}, {}, tie_word_embeddings=True),
                 qwen2_vl.inputs, ("lm_head.weight",)),
    "idefics": ("IdeficsForVisionText2Text", lambda t: idefics.tiny(t, {"tie_word_embeddings": True}, {}, {}),
                idefics.inputs, ("lm_head.weight", "lm_head.additional_fc.weight")),
    "fuyu": ("FuyuForCausalLM", lambda t: fuyu_8b.tiny(t, {}, tie_word_embeddings=True), fuyu_8b.inputs,
             ("language_model.lm_head.weight",)),
}  # fmt: skip


INNER = "language_model."  # in front of a head's name on disk, and not in memory


def saved(folder: Path, name: str, config: Callable[[Any], Any], own: tuple[str, ...]) -> Any:
    """A folder whose tensors `own` are random beside what the library saves; the library's model of it."""
    with library.quiet() as transformers:
        oracle = library.built(transformers, name, config(transformers))
        library.saved(oracle, folder)
        tensors = load_file(folder / "model.safetensors")
        assert not set(own) & set(tensors)
        shapes = {name: x.shape for name, x in oracle.state_dict().items()}
        for each in own:
            tensors[each] = randomise.tensor(each, shapes.get(each, shapes.get(each.removeprefix(INNER), (64, 32))))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return getattr(transformers, name).from_pretrained(folder).eval()


@pytest.mark.parametrize("case", CASES)
def test_a_head_of_its_own_is_used(case: str, tmp_path: Path) -> None:
    name, config, batch, own = CASES[case]
    oracle = saved(tmp_path, name, config, own)
    batch = batch(oracle.config) if callable(batch) else batch
    model = pm.load(tmp_path)
    with torch.no_grad():
        wanted = library.logits(oracle, batch)
    mask = batch.get("attention_mask")
    real = torch.ones(wanted.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
    assert max_abs_error(model.logits(**batch)[real], wanted[real]) < 1e-4

    copy = tmp_path / "saved"  # and what is saved is read back with its head
    model.save(copy)
    assert max_abs_error(pm.load(copy).logits(**batch)[real], wanted[real]) < 1e-4


@pytest.mark.parametrize("case", ["llama", "blip captions"])
def test_an_equal_copy_is_not_counted(case: str, tmp_path: Path) -> None:
    name, config, batch, own = CASES[case]
    with library.quiet() as transformers:
        oracle = library.built(transformers, name, config(transformers))
        library.saved(oracle, tmp_path)
    alone = pm.load(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[own[0]] = next(x for key, x in tensors.items() if "embed_tokens" in key or "word_embeddings" in key).clone()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    both = pm.load(tmp_path)
    assert both.variant.parameters == alone.variant.parameters
    assert torch.equal(both.logits(**batch), alone.logits(**batch))


def test_what_cannot_be_kept_apart_is_refused(tmp_path: Path) -> None:
    """An embedding of T5's decoder that is not the shared one has no place in the model."""
    name, config, _, _ = CASES["t5 in blip-2"]
    saved(tmp_path, name, config, ("language_model.decoder.embed_tokens.weight",))
    with pytest.raises(
        WeightsError, match=r"decoder\.embed_tokens\.weight' should repeat 'language_model\.shared\.weight'"
    ):
        pm.load(tmp_path)


def test_a_masked_language_model_with_its_own_head(tmp_path: Path) -> None:
    """The published vilt-b32-mlm says so (huggingface.co/dandelin/vilt-b32-mlm, config.json)."""
    name, config, batch, own = CASES["vilt"]
    oracle = saved(tmp_path, name, config, own)
    said = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(
        said.replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'), encoding="utf-8"
    )
    with torch.no_grad():
        assert max_abs_error(pm.load(tmp_path).logits(**batch), library.logits(oracle, batch)) < 1e-4
