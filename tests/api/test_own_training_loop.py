"""The training loop of docs/loading.md on a folder of tiny weights: gradients flow through a loaded model."""

from pathlib import Path

import torch

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import llava_1_5
from polymodal.systems import get


def tiny_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>", "<image>"], bos="<s>", eos="</s>", pad="<unk>")
    config = llava_1_5.small(size, 3)
    sides = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    write_config(folder, config=config, preprocessor_config=sides)
    spec = get("llava-1.5").formats[0].model_spec(config)
    write_weights(folder, spec.build(), spec.keys[0])
    return folder


def test_the_readmes_loop(tmp_path: Path, examples: Path) -> None:
    picture = {"type": "image", "image": str(examples / "cat.jpg")}
    conversations = [[
        {"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A cat."},
    ]]  # fmt: skip
    losses = []

    model = pm.load(tiny_folder(tmp_path)).train()
    for parameter in model.module.encoders.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-3)
    for _ in range(30):
        batch = model.processor(conversations)
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())

    assert losses[-1] < losses[0] / 2
    assert all(p.grad is None for p in model.module.encoders.parameters())
    assert model.eval().chat(conversations[0][:1], max_tokens=12).text.strip() == "A cat."
    assert not any(part.training for part in model.module.modules())


def test_frozen_parts_stay_in_evaluation_mode(tmp_path: Path) -> None:
    model = pm.load(tiny_folder(tmp_path))
    model.module.encoders.requires_grad_(False)
    model.train()
    assert not any(part.training for part in model.module.encoders["image"].modules())
    assert model.module.backbone.training
    assert not any(part.training for part in model.eval().module.modules())


def test_what_a_torch_user_expects(tmp_path: Path) -> None:
    model = pm.load(tiny_folder(tmp_path))
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.module.parameters())
    assert model.to(dtype=torch.float64).module.backbone.embed_tokens.weight.dtype == torch.float64
    ids = torch.tensor([[1, 5, 6, 7]])
    output = model(input_ids=ids, labels=ids)
    assert output.logits.requires_grad and output.losses.keys() == {"language_model"}
    assert not model.logits(input_ids=ids).requires_grad
