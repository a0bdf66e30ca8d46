"""Prompts of Emu3 and Chameleon as their processors write them, and the published codes' ids."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal.check.demo import QUESTION, byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import chameleon as chameleon_evidence
from polymodal.check.evidence import emu3 as emu3_evidence
from polymodal.check.fixture import read
from polymodal.check.randomise import state
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import written
from polymodal.errors import ConfigError
from polymodal.systems.chameleon import SYSTEM as CHAMELEON
from polymodal.systems.chameleon import checkpoint as chameleon
from polymodal.systems.emu3 import SYSTEM as EMU3
from polymodal.systems.emu3 import checkpoint as emu3

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


def asked(question: str) -> list[Message]:
    return [Message(role="user", parts=(pm.image(Image.open(CAT).convert("RGB")), Text(question)))]


def folder(place: Path, evidence, system, eos: str, preprocessor: dict[str, object]):
    """A published folder of test size with a tokenizer of bytes."""
    size = byte_tokenizer(place, evidence.SPECIALS, bos=evidence.SPECIALS[0], eos=eos, pad=evidence.SPECIALS[0])
    index = evidence.SPECIALS.index
    if system is EMU3:
        config = evidence.small(size, index("<image>"), index(emu3.ROW_END))
    else:
        config = evidence.small(size, index("<image>"))
    write_config(place, config=config, preprocessor_config=preprocessor)
    model_spec = system.formats[0].model_spec(config)
    write_weights(place, model_spec.build(), model_spec.keys[0])
    return pm.load(place)


def test_emu3_prompt_is_the_official_one(tmp_path: Path) -> None:
    bounds = {"min_pixels": 256, "max_pixels": 700, "spatial_factor": 4}
    model = folder(tmp_path, emu3_evidence, EMU3, emu3.EOS, bounds)
    batch = model.processor(asked("What is it?"), generate=True)
    (height, width), ids = (batch["image_sizes"][0] // 4).tolist(), batch["input_ids"][0].tolist()
    image = (
        f"<|image start|>{height}*{width}<|image token|>{'<image>' * height * (width + 1)}<|extra_201|><|image end|>"
    )
    text = f"<|extra_203|>You are a helpful assistant. USER: {image}What is it?. ASSISTANT:"
    from tokenizers import Tokenizer

    assert ids == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert model.logits(**{k: v for k, v in batch.items() if k != "labels"}).shape[:2] == (1, len(ids))


def test_emu3_answers_are_learned_with_their_space() -> None:
    talk = [*asked("Q"), Message(role="assistant", parts=(Text("A"),))]
    segments = emu3.TEMPLATE.render(talk, ask=False)
    assert written([s for s in segments if getattr(s, "loss_mask", False)]) == " A<|extra_204|>"
    assert emu3.POSITIVE == " masterpiece, film grained, best quality."
    assert emu3.NEGATIVE.startswith("lowres, bad anatomy,") and emu3.NEGATIVE.endswith("watermark, username, blurry.")


def test_chameleon_prompt_is_the_librarys(tmp_path: Path) -> None:
    sides = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    model = folder(tmp_path, chameleon_evidence, CHAMELEON, "</s>", sides)
    ids = model.processor(asked(QUESTION), generate=True)["input_ids"][0].tolist()
    text = f"<s><racm3:break>{'<image>' * 16}<eoss>{QUESTION}<reserved08706>"
    from tokenizers import Tokenizer

    assert ids == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text, add_special_tokens=False).ids


def test_published_codes_have_the_published_ids() -> None:
    vocabulary, placeholder = chameleon.vocabulary_of(chameleon.published())
    assert placeholder == 8711
    assert torch.equal(vocabulary.from_codec("image", torch.arange(8192)), torch.arange(4, 8196))
    config = emu3.published()
    spelling, _ = emu3.spelling_of(config, 184622)
    assert spelling.row_end == 151846
    assert spelling(torch.tensor([[[0, 32767]]])).tolist() == [[151854, 184621, 151846]]
    assert json.dumps(config)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="no vocabulary_map"):
        CHAMELEON.formats[0].model_spec({"model_type": "chameleon"})
    with pytest.raises(ConfigError, match="vocabulary_map must name"):
        EMU3.formats[0].model_spec({"model_type": "emu3", "vocabulary_map": {"<image>": 3}})


def test_codecs_alone_are_read_from_their_folders(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.emu3.configuration_emu3 import Emu3VQVAEConfig

    settings = {"codebook_size": 24, "base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1,
                "attn_resolutions": [1], "hidden_size": 64}  # fmt: skip
    theirs = transformers.Emu3VQVAE(Emu3VQVAEConfig(**settings)).eval()
    theirs.save_pretrained(tmp_path)
    codec = pm.load(tmp_path).module
    codes = torch.arange(12).view(1, 3, 4)
    with torch.no_grad():
        assert (codec.decode(codes) - theirs.decode(codes)).abs().max() < 1e-4


def test_official_codec_is_read_from_its_file_and_decodes(tmp_path: Path) -> None:
    about, known = read("chameleon_vqgan")
    torch.save({"state_dict": state(json.loads(about["shapes"]))}, tmp_path / "vqgan.pth")
    codec = pm.load(tmp_path / "vqgan.pth").module
    with torch.no_grad():
        assert torch.equal(codec(known["pixel_values"]), known["ids"])
        assert (codec.decode(known["codes"]) - known["pixels"]).abs().max() < 1e-4
