"""A user's own system in one file: a toy that looks, listens and babbles, with random weights.

    picture 16x16 -> 4 patches -> linear -> spliced        sound -> 4 chunks -> linear -> spliced
    words -> bytes -> two decoder blocks of width 32 -> bytes

Made like any system of the catalogue, so that the command line can be tested without published weights.
"""

import string

import torch
from tokenizers import Tokenizer as Pipeline
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor, nn

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import chatml
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import Squash
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.rope import RopeConfig
from polymodal.systems import (
    AdamW,
    DataSource,
    LanguageModeling,
    LoadedModel,
    LoadOptions,
    Part,
    Stage,
    System,
    Variant,
)

WIDTH, PATCH, SIDE, CHUNKS, CHUNK = 32, 8, 16, 4, 100
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|image|>", "<|audio|>")


class Patches(nn.Module):
    """pixel_values [N, 3, 16, 16] -> features [N, 4, 32]"""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.proj(pixel_values).flatten(2).transpose(1, 2)


class Chunks(nn.Module):
    """audio_values [N, 400] -> features [N, 4, 32]"""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(CHUNK, WIDTH)

    def forward(self, audio_values: Tensor) -> Tensor:
        return self.proj(audio_values.unflatten(1, (CHUNKS, CHUNK)))


def tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pipeline = Pipeline(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_tokens(list(SPECIAL))
    return Tokenizer(pipeline, control=SPECIAL, eos="<|im_end|>", pad="<|im_end|>")


def build(variant: Variant) -> MultimodalLM:
    attention = AttentionConfig(width=WIDTH, heads=4, kv_heads=2)
    block = DecoderBlockConfig(attention=attention, mlp=GatedMLPConfig(width=WIDTH, ffn_width=64))
    vocab_size = 256 + len(SPECIAL)
    backbone = DecoderConfig(
        vocab_size=vocab_size, width=WIDTH, blocks=(block, block), rope=RopeConfig(head_dim=8), max_length=512
    )
    return MultimodalLM(
        encoders={"image": Patches(), "audio": Chunks()},
        connectors={"image": nn.Linear(WIDTH, WIDTH), "audio": nn.Linear(WIDTH, WIDTH)},
        backbone=backbone.build(),
        placeholders={"image": vocab_size - 2, "audio": vocab_size - 1},
    )


def samples(audio) -> Tensor:
    wave = torch.zeros(CHUNKS * CHUNK)
    heard = torch.from_numpy(audio.samples(8000))[: len(wave)]
    wave[: len(heard)] = heard
    return wave


def processor() -> Processor:
    look = Squash(height=SIDE, width=SIDE)
    return Processor(
        tokenizer=tokenizer(),
        template=chatml(default_system=None),
        modalities=(
            Modality(name="image", placeholder="<|image|>", transform=lambda i: look(i.picture), tokens=lambda _: 4),
            Modality(name="audio", placeholder="<|audio|>", transform=samples, tokens=lambda _: CHUNKS),
        ),
        max_length=512,
    )


def load(variant: Variant, options: LoadOptions) -> LoadedModel:
    torch.manual_seed(0)
    model, prepare = build(variant), processor()

    def embed(items) -> Tensor:
        batches = [prepare([{"role": "user", "content": [item]}]) for item in items]
        rows = [model(**batch).hidden[0].mean(0) for batch in batches]
        return nn.functional.normalize(torch.stack(rows), dim=-1)

    def score(items, labels) -> Tensor:
        return (embed(items) @ embed(labels).T).softmax(-1)

    def transcribe(audio) -> str:
        return string.ascii_lowercase[int(samples(audio).abs().sum()) % 26]

    return LoadedModel(model=model, processor=prepare, transcribe=transcribe, score=score, embed=embed)


def parts(variant: Variant) -> tuple[Part, ...]:
    return (
        Part(slot="encoder", modality="image", name="patches", prefix="encoders.image", input="[N, 3, 16, 16]",
             output="[N, 4, 32]"),
        Part(slot="encoder", modality="audio", name="chunks", prefix="encoders.audio", input="[N, 400]",
             output="[N, 4, 32]"),
        Part(slot="connector", modality="image", name="linear", prefix="connectors.image", input="[N, 4, 32]",
             output="[N, 4, 32]", tokens=4),
        Part(slot="connector", modality="audio", name="linear", prefix="connectors.audio", input="[N, 4, 32]",
             output="[N, 4, 32]", tokens=4),
        Part(slot="backbone", name="tiny decoder", prefix="backbone", input="[B, T, 32]", output="[B, T, 32]"),
    )  # fmt: skip


def stage(name: str, train: tuple[str, ...]) -> Stage:
    nothing = DataSource(name="nothing", kind="conversations")
    return Stage(name=name, data=(nothing,), train=train, objective=LanguageModeling(), optimizer=AdamW(lr=1e-3))


SYSTEM = System(
    id="tiny",
    aliases=("Tiny <toy>",),
    year=2026,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image", "audio"),
    outputs=("text",),
    variants=(Variant(name="toy", parameters=0), Variant(name="other", parameters=0)),
    headline="babbles & nothing else",
    reference="tests/cli/tiny_system.py",
    build=build,
    parts=parts,
    load=load,
    recipe=(stage("align", ("connectors",)), stage("tune", ("connectors", "backbone"))),
)
