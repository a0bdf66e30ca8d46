"""Features of every layer of a network for the same samples, as the alignment measure takes them: [N, D] of each.

    a file        .npz, .pt, .safetensors: "feats" [N, L, D], or one array of a layer each, in the order of the file
    a part        "efficientnet-lite0", "centernet", "smollm2-135m", "minilm", "whisper-tiny.en": published weights
                  that `mini` fetches; with ":untrained" the same network with fresh weights
    a model       whatever `pm.load` takes: its `image`, `text` or `audio` side, named behind a "#" where it has several

A picture's map is averaged over its places, of a ViT the class token is taken; a text is averaged over its tokens.
Traps: a block is what stands in a module's `blocks`; a decoder's first hidden state is its embeddings and its last one
lies behind the final norm, as the transformers library counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import polymodal as pm
from polymodal.backbones.decoder import Decoder
from polymodal.backbones.encoder import BERT_KEYS, MINILM_L6
from polymodal.backbones.llama import gguf_keys
from polymodal.data.media import Audio, Image, Media, Text
from polymodal.data.mel import log_mel
from polymodal.data.tokenizer import Tokenizer
from polymodal.encoders.centernet import CENTERNET_SOURCE, CenterNetConfig
from polymodal.encoders.centernet import PUBLISHED_KEYS as CENTERNET_KEYS
from polymodal.encoders.efficientnet import LITE0, LITE0_SOURCE, PUBLISHED_KEYS
from polymodal.encoders.whisper import OPENAI_KEYS as WHISPER_KEYS
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.recording import recording
from polymodal.models.representation_alignment import Features
from polymodal.models.speech_seq2seq import TINY_EN_WEIGHTS, WHISPER
from polymodal.systems.mini import components
from polymodal.weights.fetch import fetch, fetch_all
from polymodal.weights.folder import weights_in
from polymodal.weights.load import load_module, open_source, under

FILES = (".npz", ".pt", ".pth", ".safetensors")
RATE = 16_000
Layers = list[Tensor]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """read(item) -> the layers of one sample, [1, D] each.  modality: which part of a pair it takes."""

    modality: str
    read: Callable[[Any], Layers]

    def all(self, items: Sequence[Any], say: Say) -> Layers:
        """[N, D] of each layer."""
        rows = []
        with torch.inference_mode():
            for index, item in enumerate(items):
                say(f"{index} of {len(items)}")
                rows.append(self.read(item))
        return [torch.cat(layer).float().clone() for layer in zip(*rows, strict=True)]


def from_file(path: Path) -> Features:
    """The features that a file holds.  Raises WeightsError for a damaged one, ConfigError for one without features."""
    tensors = weights_in(path)
    feats = tensors.get("feats")
    if feats is not None and feats.dim() == 3:
        return feats.float()
    found = [feats] if feats is not None else [tensors[name] for name in tensors]
    if not found or any(each.dim() != 2 for each in found) or len({len(each) for each in found}) > 1:
        shapes = ", ".join(f"{name} {list(tensors.shape(name))}" for name in list(tensors)[:4]) or "nothing"
        raise ConfigError(
            f"{path}: expected 'feats' [samples, layers, width], or an array [samples, width] of each layer; "
            f"found {shapes}"
        )
    return together([each.float() for each in found])


def together(layers: Layers) -> Features:
    """Layers of one width as [N, L, D], whose outliers are limited over all of them; others as they are."""
    return torch.stack(layers, 1) if len({each.shape for each in layers}) == 1 else layers


@contextmanager
def states(module: nn.Module) -> Iterator[Layers]:
    """Collects what each of the module's blocks gives, averaged to [N, D]."""
    found: Layers = []
    hooks = [block.register_forward_hook(lambda block, given, out: found.append(pooled(module, out)))
             for block in blocks_of(module)]  # fmt: skip
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def blocks_of(module: nn.Module) -> list[nn.Module]:
    blocks = getattr(module, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.ModuleList) else []


def pooled(module: nn.Module, out: Any) -> Tensor:
    """[N, C, h, w] or [N, S, D] -> [N, D]: the mean over places, the class token where there is one."""
    x = out[0] if isinstance(out, tuple) else out
    if x.dim() == 4:
        return x.mean((2, 3))
    return x[:, 0] if getattr(module, "class_token", None) is not None else x.mean(1)


def hooked(module: nn.Module, run: Callable[[Any], Any]) -> Callable[[Any], Layers]:
    def read(item: Any) -> Layers:
        with states(module) as found:
            run(item)
        return found

    return read


def decoded(backbone: Decoder, encode: Callable[[str], list[int]]) -> Callable[[Any], Layers]:
    """A text -> all hidden states of a decoder, averaged over its tokens."""
    model = MultimodalLM({}, {}, backbone, {}).eval()

    def read(item: Text) -> Layers:
        with recording(model, hidden_states=True, attentions=False) as recorded:
            model(input_ids=torch.tensor([encode(item.text)]), return_logits=False)
        return [state.mean(1) for state in recorded.hidden_states]

    return read


def smollm2(trained: bool) -> Callable[[Any], Layers]:
    file = open_source(components.SMOLLM2_135M_GGUF)
    config = components.BACKBONE
    backbone = load_module(config.build, file, (gguf_keys(config),), dtype=torch.float32) if trained else config.build()
    return decoded(backbone, Tokenizer.from_gguf(file.metadata).encode)


def minilm(trained: bool) -> Callable[[Any], Layers]:
    from tokenizers import Tokenizer as Pipeline

    file = open_source(components.MINILM)
    model = load_module(MINILM_L6.build, file, (BERT_KEYS,), dtype=torch.float32) if trained else MINILM_L6.build()
    pipeline = Pipeline.from_file(str(fetch(components.MINILM_TOKENIZER)))
    pipeline.enable_truncation(256)
    model.eval()
    return hooked(model, lambda item: model(torch.tensor([pipeline.encode(item.text).ids])))


def lite0(trained: bool) -> Callable[[Any], Layers]:
    model = load_module(LITE0.build, open_source(LITE0_SOURCE), (PUBLISHED_KEYS,)) if trained else LITE0.build()
    model.eval()
    return hooked(model, lambda item: model(components.IMAGE(item)[None]))


def centernet(trained: bool) -> Callable[[Any], Layers]:
    """Its trunk, as far as it goes: the head reads some blocks half done, so those give no output of their own."""
    fetch_all((components.CENTERNET_VALUES, components.CENTERNET_SOURCE))
    build = CenterNetConfig().build
    model = (
        load_module(build, open_source(CENTERNET_SOURCE), (CENTERNET_KEYS,), dtype=torch.float32)
        if trained
        else build()
    )
    model.eval()

    def read(item: Image) -> Layers:
        return [each.mean((2, 3)) for each in reversed(model.maps(components.SCENE(item)[None]))]

    return read


def whisper(trained: bool) -> Callable[[Any], Layers]:
    config = WHISPER["tiny.en"]
    build = config.encoder.build
    file = open_source(TINY_EN_WEIGHTS)
    model = load_module(build, under(file, "encoder."), (WHISPER_KEYS,), dtype=torch.float32) if trained else build()
    model.eval()

    def read(item: Audio) -> Layers:
        samples = item.samples(RATE)
        real = config.encoder.tokens_in(len(samples) / RATE)  # the rest of the window is silence
        found: Layers = []
        hooks = [each.register_forward_hook(lambda block, given, out: found.append(out[:, :real].mean(1)))
                 for each in model.blocks]  # fmt: skip
        try:
            model(log_mel(samples, config.mel)[None])
        finally:
            for hook in hooks:
                hook.remove()
        return found

    return read


PARTS: Mapping[str, tuple[str, Callable[[bool], Callable[[Any], Layers]]]] = {
    "efficientnet-lite0": ("image", lite0),
    "centernet": ("image", centernet),
    "smollm2-135m": ("text", smollm2),
    "minilm": ("text", minilm),
    "whisper-tiny.en": ("audio", whisper),
}


def reader(name: str) -> Reader:
    """The reader of a part or of a model; fresh weights are those of seed 0."""
    part, _, state = name.partition(":")
    if part in PARTS and state in ("", "untrained"):
        modality, make = PARTS[part]
        torch.manual_seed(0)
        return Reader(modality=modality, read=make(state == ""))
    address, _, side = name.partition("#")
    return of_model(pm.load(address), side, name)


def of_model(model: Any, side: str, name: str) -> Reader:
    """The side of a loaded model: a tower of a dual encoder, an encoder or the backbone of a language model."""
    encoders = dict(getattr(model.module, "encoders", {}).items())
    backbone = getattr(model.module, "backbone", None)
    sides = {key: each for key, each in encoders.items() if tower(each) is not None}
    if isinstance(backbone, Decoder):
        sides["text"] = backbone
    side = side or next(iter(sides), "")
    if side not in sides:
        raise ConfigError(
            f"{name}: expected a model with blocks to look into, its side behind a '#'; "
            f"found {', '.join(sides) or 'none'}"
        )
    if side == "text" and isinstance(backbone, Decoder):
        return Reader(modality="text", read=decoded(backbone, model.processor.tokenizer.encode))
    found = tower(sides[side])
    assert found is not None
    if "embed" in model.can():
        return Reader(modality=side, read=hooked(found, lambda item: model.embed([item])))
    return Reader(modality=side, read=hooked(found, lambda item: model.features(**model.processor([item]))))


def tower(module: nn.Module) -> nn.Module | None:
    """The first module with blocks in a module."""
    return next((each for each in module.modules() if blocks_of(each)), None)


def part_of(pair: Sequence[Media | Text], modality: str) -> Any:
    """What of a pair a reader takes, None where it is not there."""
    kind = {"image": Image, "audio": Audio, "text": Text}.get(modality)
    return None if kind is None else next((each for each in pair if isinstance(each, kind)), None)
