"""CogVLM, LLaMA-Adapter V2 and mPLUG-Owl2: prompts, pictures and what the published files leave to the reader."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file

import polymodal as pm
from polymodal.check.compare import run_case
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import cogvlm, llama_adapter_v2, mplug_owl2
from polymodal.check.fixture import fixture_case, read
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import written
from polymodal.data.transforms import CLIP_MEAN, CLIP_STD, ShorterSideCrop, Squash, StretchToSquare, SwappedChannels
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.cogvlm import checkpoint as visual_expert
from polymodal.systems.cogvlm.checkpoint import parse_config as open_cogvlm
from polymodal.systems.llama_adapter_v2 import checkpoint as llama_adapter
from polymodal.systems.mplug_owl2.checkpoint import TEMPLATE as OWL
from polymodal.systems.mplug_owl2.checkpoint import parse_config as open_owl

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
BOXES = [None, (10, 20, 211, 93), (0, 0, 57, 180)]
EVIDENCE = (cogvlm, llama_adapter_v2, mplug_owl2)
CASES = [pytest.param(case, id=case.name) for module in EVIDENCE for case in module.EVIDENCE.cases]


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_official_code(case: Any):
    outcome = run_case(case)
    assert outcome.error <= 1e-5, outcome
    assert outcome.generated and outcome.cached and outcome.batched, outcome


def folder_of(evidence: Any, place: Path) -> Any:
    """A tiny published folder with a tokenizer, loaded."""
    torch.manual_seed(0)
    size = byte_tokenizer(place, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
    config = evidence.small(size)
    write_config(place, config=config, generation_config={"eos_token_id": 2})
    model_spec = evidence.SYSTEM.formats[0].model_spec(config)
    write_weights(place, model_spec.build(), model_spec.keys[0])
    return pm.load(place)


def opened_gates(model: Any) -> Any:
    """The adapter with its gates far from zero."""
    with torch.no_grad():
        for block in model.module.backbone.blocks:
            block.attn.prefix.gate.fill_(1.5)
    return model


def said(role: str, *content: Any) -> Message:
    return Message(role=role, parts=tuple(Text(part) if isinstance(part, str) else part for part in content))


def picture(box: tuple[int, int, int, int] | None) -> Pillow.Image:
    image = Pillow.open(CAT).convert("RGB")
    return image if box is None else image.crop(box)


def test_cogvlm_prompts():
    def text(talk: list[Message], words: str) -> str:
        return written(visual_expert.TEMPLATE.render(visual_expert.written_out(talk, words), ask=True))

    image = pm.image(np.zeros((4, 4, 3), np.uint8))
    once = [said("user", "What is it?", image)]
    assert text(once, "Answer:") == "<s><image>Question: What is it? Answer:"
    assert text(once, "Short answer:") == "<s><image>Question: What is it? Short answer:"
    assert text(once, "") == "<s><image>What is it?"
    more = [*once, said("assistant", "A cat."), said("user", "Why?")]
    assert text(more, "Answer:") == "<s><image>Question: What is it? Answer: A cat.\nQuestion: Why? Answer:"
    trained = visual_expert.written_out([*once, said("assistant", "A cat.")], "Answer:")
    assert written(visual_expert.TEMPLATE.render(trained, ask=False)).endswith(" Answer:A cat.</s>")
    with pytest.raises(PromptError, match="one picture"):
        text([said("user", image, image)], "Answer:")


def test_llama_adapter_prompt():
    talk = llama_adapter.one_instruction((said("user", "Name it."),))
    assert written(llama_adapter.TEMPLATE.render(talk, ask=True)) == (
        "<image><s>Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\nName it.\n\n### Response:"
    )
    with pytest.raises(PromptError, match="one instruction"):
        llama_adapter.one_instruction((said("user", "a"), said("assistant", "b"), said("user", "c")))


def test_mplug_owl2_prompt():
    image = pm.image(np.zeros((4, 4, 3), np.uint8))
    talk = [said("user", image, "What is it?")]
    assert written(OWL.render(talk, ask=True)) == "<s>USER: <image>What is it? ASSISTANT:"


@pytest.mark.parametrize("box", BOXES)
def test_mplug_owl2_pictures_equal_the_official_ones(box: Any):
    transformers = pytest.importorskip("transformers")
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 448}, crop_size=448)
    image = picture(box)
    side = max(image.size)
    want = processor(image.resize((side, side)), return_tensors="pt")["pixel_values"][0]
    assert (StretchToSquare(size=448)(image) - want).abs().max() <= 1e-5


@pytest.mark.parametrize("box", BOXES)
def test_cogvlm_and_adapter_pictures_equal_the_official_ones(box: Any):
    """torchvision's Resize, CenterCrop, ToTensor and Normalize on a Pillow picture, written out."""

    def normalised(image: Pillow.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
        return (pixels - mean) / std

    image = picture(box)
    got = Squash(height=490, width=490, mean=CLIP_MEAN, std=CLIP_STD)(image)
    want = normalised(image.resize((490, 490), Pillow.Resampling.BICUBIC))
    assert (got - want).abs().max() <= 1e-5

    blue_first = Pillow.fromarray(np.array(image)[:, :, ::-1].copy())
    short, long = min(image.size), max(image.size)
    size = [224 if side == short else int(224 * long / short) for side in image.size]
    left, top = (round((side - 224) / 2) for side in size)
    resized = blue_first.resize((size[0], size[1]), Pillow.Resampling.BICUBIC)
    want = normalised(resized.crop((left, top, left + 224, top + 224)))
    got = SwappedChannels(transform=ShorterSideCrop(size=224, crop=224, crop_rounding="even"))(image)
    assert (got - want).abs().max() <= 1e-5


def test_the_processor_writes_what_the_official_code_takes(tmp_path: Path):
    model = folder_of(cogvlm, tmp_path)
    batch = model.processor([said("user", "Hi", pm.image(CAT))], generate=True)
    types = batch["token_type_ids"][0].tolist()
    assert types[:20] == [0, *[1] * 18, 0] and not any(types[19:])
    assert batch["input_ids"][0, :20].tolist()[:19] == [1, *[0] * 18]
    assert batch["images"].shape == (1, 3, 56, 56)
    assert batch["token_types"][0].tolist() == [0, *[1] * 17, *[0] * (len(types) - 18)], "the end marker counts as text"
    with_text = model.logits(**{name: value for name, value in batch.items() if name != "labels"})
    assert torch.isfinite(with_text).all()
    alone = model.processor([said("user", "Hi")], generate=True)
    assert not alone["token_types"].any()


def test_labels_are_the_answer_and_its_end(tmp_path: Path):
    for evidence in EVIDENCE:
        place = tmp_path / evidence.SYSTEM.id
        place.mkdir()
        model = folder_of(evidence, place)
        batch = model.processor([said("user", pm.image(CAT), "Hi"), said("assistant", "Yes.")])
        learned = batch["labels"][0][batch["labels"][0] != -100].tolist()
        # LLaMA's tokenizer makes the space before an answer a part of its first word, as published.
        assert model.processor.tokenizer.decode(learned[:-1]).removeprefix(" ") == "Yes." and learned[-1] == 2


def test_another_picture_is_another_answer_though_no_token_stands_for_it(tmp_path: Path):
    """All keys depend on the picture: nothing computed for one may be used for the next."""
    used, fresh = (opened_gates(folder_of(llama_adapter_v2, tmp_path)) for _ in range(2))
    cat, blank = pm.image(CAT), pm.image(np.zeros((64, 64, 3), np.uint8))
    first = used.chat(cat, "Hi", max_tokens=6).text
    assert used.chat(blank, "Hi", max_tokens=6).text == fresh.chat(blank, "Hi", max_tokens=6).text
    assert used.chat(cat, "Hi", max_tokens=6).text == first


def test_the_adapter_is_read_from_its_three_official_files(tmp_path: Path):
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = fixture_case("", "llama_adapter_v2_lora").make(whole)
    state = torch.load(whole / "checkpoint.pth", weights_only=True)["model"]
    base = ("wq.weight", "wk.weight", "wv.weight", "wo.weight", "w1.weight", "w2.weight", "w3.weight", "norm.weight")
    meta = {
        k: v for k, v in state.items() if k.startswith("llama.") and (k.endswith(base) or "tok_" in k or "output" in k)
    }
    clip = {k: v for k, v in state.items() if k.startswith("clip.")}
    rest = {k: v for k, v in state.items() if k not in meta and k not in clip}
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "config.json").write_text(read("llama_adapter_v2_lora")[0]["config"])
    torch.save({k.removeprefix("llama."): v for k, v in meta.items()}, parts / "consolidated.00.pth")
    torch.save({"model": rest, "config": {"w_lora": True}}, parts / "0123_LORA-BIAS-7B.pth")
    text = {"transformer.resblocks.0.ln_1.weight": torch.ones(2), "input_resolution": torch.tensor(12)}
    torch.save({**{k.removeprefix("clip."): v for k, v in clip.items()}, **text}, parts / "ViT-L-14.pt")
    assert expected.logits is not None
    got = pm.load(parts).logits(**expected.inputs)
    assert (got - expected.logits)[expected.inputs["attention_mask"].bool()].abs().max() <= 1e-5


def test_what_is_not_supported_is_refused():
    with pytest.raises(ConfigError, match="CogVLM2"):
        open_cogvlm({"model_type": "cogvlm", "num_multi_query_heads": 8})
    with pytest.raises(ConfigError, match="num_positions"):
        open_cogvlm({"vision_config": {"num_positions": 5}})
    with pytest.raises(ConfigError, match="add_v2t_pos_emb"):
        open_owl({"visual_config": {"visual_abstractor": {"add_v2t_pos_emb": True}}})
    with pytest.raises(ConfigError, match="hidden_size"):
        open_owl({"visual_config": {"visual_abstractor": {"hidden_size": 512}}})
    with pytest.raises(ConfigError, match="grid_size"):
        open_owl({"visual_config": {"visual_abstractor": {"grid_size": 16}}})
    config = json.loads(read("llama_adapter_v2_lora")[0]["config"])
    with pytest.raises(ConfigError, match="query_layer"):
        llama_adapter_v2.SYSTEM.formats[0].model_spec({**config, "query_layer": 9})


@pytest.mark.parametrize("grid", [4, 2])
def test_mplug_owl2_without_its_computed_tables_as_it_is_published(tmp_path: Path, grid: int):
    """The published repository lacks `q_pos_embed` and `k_pos_embed` of every layer (X-PLUG/mPLUG-Owl, issue 184)."""
    config = mplug_owl2.small(40)
    visual = config["visual_config"]
    visual["visual_abstractor"]["grid_size"], visual["visual_model"]["image_size"] = grid, 14 * grid
    spec = mplug_owl2.SYSTEM.formats[0].model_spec(config)
    write_config(tmp_path, config=config)
    write_weights(tmp_path, spec.build(), spec.keys[0])
    whole = load_file(tmp_path / "model.safetensors")
    tables = {name: whole.pop(name) for name in list(whole) if name.endswith("_pos_embed")}
    assert len(tables) == 4
    save_file(whole, tmp_path / "model.safetensors")
    model = pm.load(tmp_path)

    # As visual_encoder.py of the official code makes them: sines, then cosines; the column's half, then the row's.
    def waves(positions: Any, width: int) -> Any:
        angles = np.outer(positions, 1.0 / 10000 ** (np.arange(width // 2, dtype=np.float32) / (width / 2)))
        return np.concatenate((np.sin(angles), np.cos(angles)), 1)

    row, column = np.divmod(np.arange(grid * grid), grid)
    keys = np.concatenate((np.zeros((1, 48)), np.concatenate((waves(column, 24), waves(row, 24)), 1)))
    for layer in model.module.connectors["image"].layers:
        assert np.abs(layer.query_positions.numpy() - waves(np.arange(8), 48)).max() < 1e-6
        assert np.abs(layer.key_positions.numpy() - keys).max() < 1e-6
    assert torch.equal(tables["model.visual_abstractor.encoder.layers.1.crossattention.attention.k_pos_embed"],
                       model.module.connectors["image"].layers[1].key_positions)  # fmt: skip
