"""A folder of Stable Diffusion as diffusers saves it, read part by part when something is drawn.

    model_index.json   unet/   vae/   scheduler/   text_encoder/   tokenizer/     (1.5, 2.1-base, and any of their kind)

Each part is read strictly, by the names of diffusers and transformers. The safety checker and its
feature extractor are not read.
Trap: an empty prompt is the begin token, the end token and padding, all of which the U-Net looks at.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.tokenizer import pad_id_of
from polymodal.encoders import clip_text
from polymodal.encoders.clip_text import ClipText
from polymodal.errors import ConfigError, WeightsError
from polymodal.generators import kl_codec, samplers, unet, unet_keys
from polymodal.generators.kl_codec import KLCodec
from polymodal.generators.unet import UNet
from polymodal.pipelines.guided_diffusion import GuidedDiffusion, OwnPipelines
from polymodal.weights.folder import weights_in
from polymodal.weights.load import load_module

INDEX = "model_index.json"


def find(folder: Path) -> Path | None:
    """The folder of Stable Diffusion inside one of a system; None where there is none.  Raises WeightsError for two."""
    places = [each.parent for each in (*folder.glob(INDEX), *sorted(folder.glob(f"*/{INDEX}")))]
    if len(places) > 1:
        raise WeightsError(f"{folder} holds {len(places)} diffusion models, expected one: "
                           f"{', '.join(each.name for each in places)}")  # fmt: skip
    return places[0] if places else None


def own(folder: Path, unet: nn.Module | None = None) -> OwnPipelines | None:
    """What draws for a system with such a folder in its own; None without one.  Raises WeightsError for two.

    unet: the model's own, in place of the folder's.
    """
    place = find(folder)
    return None if place is None else OwnPipelines(lambda: {"image": StableDiffusion(place, unet).pipeline()})


class Codec:
    """The codec of a folder `vae`, read when the first picture is drawn.  whose: named where there is none."""

    def __init__(self, folder: Path, whose: str = "Stable Diffusion") -> None:
        self._folder, self._whose = folder, whose
        settings = CheckpointFiles(folder).json("config.json")
        self._config = kl_codec.parse_config(settings) if settings else None
        self._module: KLCodec | None = None

    @property
    def factor(self) -> int:
        """Pixels of a latent along a side."""
        return 8 if self._config is None else self._config.stack.factor

    def __call__(self, like: Tensor) -> KLCodec:
        """On the device of a tensor, in its dtype.  Raises ConfigError where there is none."""
        if self._config is None:
            raise ConfigError(f"{self._folder} has no config.json: pictures are decoded by the codec of "
                              f"{self._whose}; put its folder vae there")  # fmt: skip
        if self._module is None:
            tables = [kl_codec.published_keys(self._config, words) for words in
                      (kl_codec.ATTENTION, kl_codec.OLD_ATTENTION)]  # fmt: skip
            self._module = load_module(self._config.build, weights_in(self._folder), tables).eval()
        return self._module.to(device=like.device, dtype=like.dtype)


class StableDiffusion:
    """The parts of a folder.  own: a U-Net that is there already.

    Raises ConfigError or WeightsError for what they lack or do not say.
    """

    def __init__(self, folder: Path, own: nn.Module | None = None) -> None:
        self.folder = folder
        self._own = own
        self.codec = Codec(folder / "vae", "this model")
        self.sampler = samplers.parse_config(self._settings("scheduler", "scheduler_config.json"))
        self._unet: UNet | None = None
        self._text: ClipText | None = None

    def _settings(self, part: str, name: str = "config.json") -> dict[str, Any]:
        found = CheckpointFiles(self.folder / part).json(name)
        if not found:
            raise WeightsError(f"{self.folder / part} has no {name}, which says how this part is built")
        return found

    def unet(self, like: Tensor) -> UNet:
        """What sees the noise, on the device of a tensor, in its dtype."""
        if self._own is not None:
            assert isinstance(self._own, UNet)
            return self._own
        if self._unet is None:
            settings = self._settings("unet")
            tables = [unet_keys.published_keys(bool(settings.get("use_linear_projection", False)))]
            config = unet.parse_config(settings)
            self._unet = _frozen(load_module(config.build, weights_in(self.folder / "unet"), tables))
        return self._unet.to(device=like.device, dtype=like.dtype)

    @cached_property
    def tokenizer(self) -> Any:
        """The text encoder's."""
        return CheckpointFiles(self.folder / "tokenizer").tokenizer()

    def text(self, prompts: list[str], like: Tensor) -> Tensor:
        """What the text encoder says of prompts [N, 77, E], cut to its length, on the device of a tensor."""
        if self._text is None:
            config = clip_text.parse_config(self._settings("text_encoder"))
            body = clip_text.hf_keys(config)
            tables = [body, body.respelled({"text_model.": ""})]  # transformers 5 leaves the prefix out
            self._text = _frozen(load_module(config.build, weights_in(self.folder / "text_encoder"), tables))
        words, length = self.tokenizer, self._text.config.positions
        rows = [[words.bos_id, *words.encode(prompt)[: length - 2], words.eos_id] for prompt in prompts]
        ids = torch.tensor([row + [pad_id_of(words)] * (length - len(row)) for row in rows], device=like.device)
        with torch.inference_mode():
            found: Tensor = self._text.to(device=like.device, dtype=like.dtype)(ids)
        return found.clone()

    def pipeline(self) -> GuidedDiffusion:
        """What is called in place of diffusers' StableDiffusionPipeline."""
        return GuidedDiffusion(unet=self.unet, codec=self.codec, empty=lambda like: self.text([""], like),
                               sampler=self.sampler, factor=self.codec.factor)  # fmt: skip


def _frozen(module: Any) -> Any:
    assert isinstance(module, nn.Module)
    return module.eval().requires_grad_(False)
