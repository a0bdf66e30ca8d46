"""ViT against transformers, in its three classes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.demo import Checkpoint, write_config, write_weights
from polymodal.check.encoder_checks import BARE, COUNT, classes_headline, classification_check, classification_headline
from polymodal.check.fixture import fixture_case, fixture_source
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import learned
from polymodal.systems import Classification, Variant
from polymodal.systems.vit import SYSTEM
from polymodal.train.objectives import Batch, Loss, Losses

SMALL = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "image_size": 21,
         "patch_size": 5, "encoder_stride": 5}  # fmt: skip


def case(name: str, model: str = "ViTForImageClassification", larger: bool = False, **changes: Any) -> Case:
    def config(transformers: Any) -> Any:
        return transformers.ViTConfig(**{**SMALL, **changes})

    def inputs(settings: Any) -> Tensors:
        size = settings.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if larger:
            height, width = height + 2 * settings.patch_size, width + settings.patch_size
        given: Tensors = {"pixel_values": randomise.values("pixels", (3, settings.num_channels, height, width))}
        if model == "ViTForMaskedImageModeling":
            given["bool_masked_pos"] = (torch.arange(48) % 3 == 0).reshape(3, 16)
        return {**given, "interpolate_pos_encoding": True} if larger else given

    def features(oracle: Any, given: Tensors) -> dict[str, Any]:
        encoder = oracle if model == "ViTModel" else library.part(oracle, "vit")
        return {"image": library.states(encoder(**given))}

    logits = {"ViTModel": None, "ViTForMaskedImageModeling": library.field("reconstruction")}
    reading = Reading(logits=logits.get(model, library.logits), features=features)
    return hugging_case(name, model, config, inputs, reading=reading)


def size(variant: Variant) -> Size:
    settings = dict(variant.config or {})
    return hugging_size(variant.name, settings["architectures"][0], lambda t: t.ViTConfig(**settings))


TINY = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 96, "image_size": 32, "patch_size": 8}  # fmt: skip


def tiny(labels: list[str]) -> dict[str, Any]:
    return {**TINY, "id2label": {str(i): label for i, label in enumerate(labels)}}


def training_check() -> TrainingCheck:
    """Real pictures, each a class of its own."""
    torch.manual_seed(0)
    return classification_check(SYSTEM.formats[0].model_spec(tiny(real.captions(COUNT))).build(), 32)


def headline() -> HeadlineResult:
    """A tiny ViT is trained on eight real pictures, saved as the hub's files are, loaded and asked for classes."""
    with tempfile.TemporaryDirectory() as directory:
        folder, config = Path(directory), tiny(real.captions(COUNT))
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_config(folder, config=config, preprocessor_config={"size": 32, "resample": 3})
        write_weights(folder, learned(training_check(), Classification(), steps=60), model_spec.keys[0])
        return classification_headline(pm.load(folder).classify)


@dataclass(frozen=True, kw_only=True)
class HiddenPixels:
    """Pixels of patches that are not seen, by absolute error; `unseen`: where they lie."""

    name: ClassVar[str] = "hidden_pixels"

    def build(self, model: nn.Module) -> Loss:
        return HiddenPixelsLoss()


class HiddenPixelsLoss(Loss):
    """See HiddenPixels."""

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        given = {name: value for name, value in batch.items() if name != "unseen"}
        far = (model(**given).logits - batch["pixel_values"]).abs()
        return {"pixels": far[batch["unseen"]].mean()}


def masked_headline() -> HeadlineResult:
    """A tiny ViT learns to paint patches of eight real pictures that it cannot see; loaded, it is asked by `logits`."""
    torch.manual_seed(0)
    config = {**TINY, "architectures": ["ViTForMaskedImageModeling"], "encoder_stride": 8}
    pixels, hidden = real.pixels(32, count=COUNT), (torch.arange(16) % 3 == 0).expand(COUNT, -1)
    unseen = hidden.reshape(COUNT, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3).expand_as(pixels)

    def trained(module: nn.Module) -> nn.Module:
        batch = {"pixel_values": pixels, "bool_masked_pos": hidden, "unseen": unseen}
        return learned(TrainingCheck(model=module, batches=lambda step: batch, steps=150), HiddenPixels())

    checkpoint = Checkpoint(format=SYSTEM.formats[2], config=config, file="model.safetensors", written=config)
    with tempfile.TemporaryDirectory() as directory:
        model = checkpoint.stored(Path(directory), trained)
    painted = model.logits(pixel_values=pixels, bool_masked_pos=hidden)
    error = float((painted - pixels)[unseen].abs().mean())
    grey = float((pixels - pixels.mean((2, 3), keepdim=True))[unseen].abs().mean())
    said = f"hidden patches are painted with an error of {error:.2f}, where the mean colour has {grey:.2f}"
    return HeadlineResult(ok=error < grey / 2, evidence=said)


JAX = {"model_type": "vit_jax", "width": 48, "depth": 2, "heads": 4, "ffn_width": 96, "patch_size": 8, "image_size": 32,
       "pre_logits": None, "classes": COUNT}  # fmt: skip

EVIDENCE = Evidence(
    oracle=f"transformers ViTForImageClassification, ViTModel, ViTForMaskedImageModeling; {fixture_source('vit_jax')}",
    cases=(
        case("classifier", num_labels=5),
        case("one layer, no biases, other activation and eps, two channels", num_hidden_layers=1, qkv_bias=False,
             hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-3, num_channels=2),
        case("rectangle of other patches", image_size=(24, 15), patch_size=(6, 5), num_labels=3),
        case("larger pictures", larger=True, num_labels=4),
        case("heads of another width, no labels", head_dim=8, num_labels=0),
        case("encoder with another pooler", "ViTModel", pooler_output_size=11, pooler_act="relu"),
        case("masked picture", "ViTForMaskedImageModeling", image_size=20),
        fixture_case("official .npz, dense layer before the classes", "vit_jax"),
        fixture_case("official .npz, fine-tuned, one layer", "vit_jax_fine_tuned"),
    ),
    published=tuple(size(each) for each in SYSTEM.variants),
    training_checks={"pretrain": training_check, "fine-tune": training_check},
    headline=headline,
    layouts={
        SYSTEM.formats[1].name: BARE,
        SYSTEM.formats[2].name: masked_headline,
        SYSTEM.formats[3].name: lambda: classes_headline(
            Checkpoint(format=SYSTEM.formats[3], config=JAX, file="model.npz"), 32
        ),
    },
)  # fmt: skip
