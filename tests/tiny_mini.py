"""A system file of toys whose connectors are those of `mini`: names of pictures, tokens of what is said.

picture 16 x 16 -> 4 patches -> connector of 6 names        sound, 2 s -> Whisper's encoder -> CTC over 256 bytes
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig
from polymodal.check.demo import byte_tokenizer
from polymodal.connectors.ctc import CTCConnectorConfig
from polymodal.connectors.names import NamesConfig
from polymodal.data.item_rules import SameCount
from polymodal.data.mel import MelConfig
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import chatml
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import Squash
from polymodal.encoders.whisper import WhisperEncoderConfig
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.rope import RopeConfig
from polymodal.pipelines.speech_as_features import LENGTHS, SpeechAsFeatures
from polymodal.systems import LoadedModel, LoadOptions, System, Variant
from polymodal.systems.mini.recipe import ALIGN, HEAR

NAMES = ("cat", "dog", "house", "tree", "red", "green")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|image|>", "<|audio|>")
CONNECTOR = NamesConfig(names=7, classes=6, key_width=8, class_width=8, cells=4, cell_width=4, hidden_width=8)
EAR = WhisperEncoderConfig(width=16, depth=1, heads=2, mels=8, frames=200)
WIDTH = 16


class Patches(nn.Module):
    """pixel_values [N, 3, 16, 16] -> features [N, 4, 12]"""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 12, 8, 8)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.proj(pixel_values).flatten(2).transpose(1, 2)


def tokenizer() -> Tokenizer:
    with TemporaryDirectory() as folder:
        byte_tokenizer(Path(folder), SPECIAL)
        names = {"eos": "<|im_end|>", "pad": "<|im_end|>"}
        return Tokenizer.from_file(Path(folder) / "tokenizer.json", control=SPECIAL, **names)


def build(variant: Variant) -> MultimodalLM:
    block = DecoderBlockConfig(
        attention=AttentionConfig(width=WIDTH, heads=2), mlp=GatedMLPConfig(width=WIDTH, ffn_width=24)
    )
    backbone = DecoderConfig(vocab_size=260, width=WIDTH, blocks=(block,), rope=RopeConfig(head_dim=8), max_length=256)
    connectors = {
        "image": CONNECTOR.build(12, WIDTH),
        "audio": CTCConnectorConfig(vocab_size=256, width=16).build(16, WIDTH),
    }
    connectors["audio"].token_ids.copy_(torch.arange(4, 260))
    inputs = {"audio": ModalityInputs(values="audio_values", connector=(LENGTHS,))}
    return MultimodalLM({"image": Patches(), "audio": EAR.build()}, connectors, backbone.build(),
                        {"image": 2, "audio": 3}, inputs=inputs)  # fmt: skip


def load(variant: Variant, options: LoadOptions) -> LoadedModel:
    torch.manual_seed(0)
    model, words, look = build(variant), tokenizer(), Squash(height=16, width=16)
    image = Modality(name="image", placeholder="<|image|>", transform=lambda x: look(x.picture), tokens=SameCount(20))
    hears = SpeechAsFeatures(model, words, MelConfig(mels=8, seconds=2.0)).modality("<|audio|>")
    processor = Processor(tokenizer=words, template=chatml(default_system=None), modalities=(image, hears))
    return LoadedModel(model=model, processor=processor, labels=NAMES)


SYSTEM = System(
    id="tiny-mini",
    aliases=("tiny mini",),
    year=2026,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image", "audio"),
    outputs=("text",),
    headline="learns names and what is said",
    reference="tests",
    variants=tuple(Variant(name=name, parameters=1) for name in ("one", "other")),
    build=build,
    load=load,
    parts=lambda variant: (),
    recipe=(ALIGN, HEAR),
)
