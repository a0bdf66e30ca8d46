"""ShareGPT4V against a composition of transformers' CLIP and LLaMA with the official connector (evidence/llava.py).

The official code adds to LLaVA's, as far as the outputs go, where the tower lies: beside the checkpoint, in its folder
`vision_tower`, or among its weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat
from polymodal.check.evidence.llava import Layout, case, size, small
from polymodal.check.record import Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.sharegpt4v import SYSTEM

SHARE4V: dict[str, Any] = {"model_type": "share4v", "architectures": ["Share4VLlamaForCausalLM"]}
TINY = {**SHARE4V, "mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": False}
IMAGE = -200


def connector_names(width: int, out: int) -> dict[str, tuple[int, ...]]:
    """The two linears; the activation between them is number 1."""
    linears = {"0": (out, width), "2": (out, out)}
    named = {f"model.mm_projector.{index}.weight": shape for index, shape in linears.items()}
    return named | {f"model.mm_projector.{index}.bias": (out,) for index in linears}


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; a tower of 24 blocks as published, since stages name them."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        model = SYSTEM.formats[0].model_spec(small(40, Path(directory), layers=24, **TINY)).build()
    return caption_check(model, [IMAGE] * 16, side=56)


def headline() -> HeadlineResult:
    """A tiny ShareGPT4V in the official layout is trained on eight real pictures and asked about each by `chat`."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        vocabulary = byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
        config = small(vocabulary, folder / "vision_tower", **TINY, image_aspect_ratio="pad")
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=80, generation_config={"eos_token_id": 2})
    return HeadlineResult(
        ok=right == 8,
        evidence=f"tiny weights trained on 8 pictures: chat names {right} of them (published "
        "weights are fetched from the hub by id and were not at hand)",
    )


EVIDENCE = Evidence(
    oracle="transformers CLIPVisionModel and LlamaForCausalLM, joined as the official code joins them",
    cases=(
        case("tower in its folder, grouped heads", Layout(named=SHARE4V, tower="vision_tower"), depth=2),
        case("tower among the weights, odd widths, one block", Layout(named=SHARE4V, inside=True), depth=2,
             vision={"patch_size": 14, "hidden_size": 36, "intermediate_size": 50, "image_size": 42},
             num_hidden_layers=1, hidden_size=24, intermediate_size=54, num_key_value_heads=1),
        case("tower beside, first layer, head tied", Layout(named=SHARE4V), depth=2, layer=1,
             tie_word_embeddings=True, rms_norm_eps=1e-3, num_key_value_heads=4),
    ),
    published=tuple(size(variant, connector_names) for variant in SYSTEM.variants),
    training_checks={"pretrain": training_check, "finetune": training_check},
    headline=headline,
)  # fmt: skip
