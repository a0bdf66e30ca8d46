"""Gemini, of which nothing was released: parts of transformers, joined as the report describes it.

SigLIP and Whisper's encoder, a linear each, in place of the runs of their placeholders; Gemma with one head of keys and
values over words and codes; Emu3's codec, whose codes of a picture stand behind the ids of text.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.demo import byte_tokenizer, train_on_conversations, write_config, write_weights, writer
from polymodal.check.evidence.emu3 import CODEC, CODES, spread_codes
from polymodal.check.film import film, zoomed
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Shapes, Size, TrainingCheck
from polymodal.check.unit_speech import recording, spoken_pieces
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.systems.gemini import SYSTEM
from polymodal.systems.gemini.checkpoint import CONTEXT, ILLUSTRATIVE
from polymodal.systems.gemini.processing import BEGIN, END, PLACEHOLDERS, code_name

WORDS, IMAGE, AUDIO = 60, 7, 8  # ids of text of the cases, and the placeholders among them
TEXT = {"hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 3, "head_dim": 20,
        "vocab_size": WORDS, "max_position_embeddings": 256}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 32, "patch_size": 16}  # fmt: skip
SOUND = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 56, "num_mel_bins": 16,
         "max_source_positions": 25}  # fmt: skip
STILL = {**CODEC, "temporal_downsample_factor": 1}
PIECE, COUNT, SIDE = 0.4, 3, 16  # seconds of sound, samples of the demonstration, pixels of written pictures


class Composite(nn.Module):
    """The parts of a config as the library has them.  Names of its children are those on disk."""

    def __init__(self, transformers: Any, config: Mapping[str, Any]) -> None:
        super().__init__()
        text, sound = config["text_config"], config["audio_config"]
        codec = transformers.Emu3VQVAEConfig(**config["vq_config"])
        vision = transformers.SiglipVisionConfig(vision_use_head=False, **config["vision_config"])
        whole = {"num_key_value_heads": 1, "max_position_embeddings": CONTEXT, **text,
                 "vocab_size": text["vocab_size"] + codec.codebook_size, "pad_token_id": 0}  # fmt: skip
        self.language_model = transformers.GemmaForCausalLM(transformers.GemmaConfig(**whole))
        self.vision_tower = transformers.SiglipVisionModel(vision)
        self.audio_tower = transformers.WhisperModel(
            transformers.WhisperConfig(**sound, decoder_layers=1, decoder_attention_heads=1, decoder_ffn_dim=4)
        ).encoder
        self.vision_projection = nn.Linear(vision.hidden_size, text["hidden_size"])
        self.audio_projection = nn.Linear(sound["d_model"], text["hidden_size"])
        self.vq_model = transformers.Emu3VQVAE(codec)

    def on_disk(self) -> dict[str, Tensor]:
        """By the names of published files, where SigLIP's lie below `vision_model`."""
        found: dict[str, Tensor] = {}
        for child, module in self.named_children():
            inside = "vision_tower.vision_model" if child == "vision_tower" else child
            found |= {f"{inside}.{name}": x for name, x in library.names_on_disk(module).items()}
        return found

    def features(self, pixels: Tensor, heard: Tensor) -> dict[str, Tensor]:
        return {"image": self.vision_projection(library.states(self.vision_tower(pixels))),
                "audio": self.audio_projection(library.states(self.audio_tower(heard)))}  # fmt: skip

    def codes(self, pixels: Tensor) -> Tensor:
        """Codes [N, h * w] of pictures that are written."""
        sizes = torch.tensor([pixels.shape[-2:]] * len(pixels))
        return torch.stack([each.flatten() for each in self.vq_model.encode(pixels, sizes).image_tokens])


def case(name: str, *, sound: Mapping[str, Any] | None = None, vision: Mapping[str, Any] | None = None,
         **text: Any) -> Case:  # fmt: skip
    """A checkpoint of test size: pictures, sound and written pictures among words."""
    config = {"model_type": "gemini", "text_config": {**TEXT, **text}, "vision_config": {**VISION, **(vision or {})},
              "audio_config": {**SOUND, **(sound or {})}, "vq_config": STILL, "image_size": SIDE,
              "image_token_id": IMAGE, "audio_token_id": AUDIO}  # fmt: skip

    def make(folder: Path) -> Expected:
        with library.quiet() as transformers, torch.no_grad():
            oracle = Composite(transformers, config).eval()
            randomise.fill(oracle)
            weights = {name: x.contiguous() for name, x in oracle.on_disk().items()}
            save_file(weights, folder / "model.safetensors")
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            return _expected(oracle, config)

    return Case(name=name, make=make, needs="transformers")


def _expected(oracle: Composite, config: Mapping[str, Any]) -> Expected:
    """Two rows padded on the left: a picture, sound and a written picture among words; two pictures, then sound."""
    vision, sound = config["vision_config"], config["audio_config"]
    pixels = randomise.values("pixels", (3, 3, vision["image_size"], vision["image_size"]))
    heard = randomise.values("spectrograms", (2, sound["num_mel_bins"], 2 * sound["max_source_positions"]))
    seen = [IMAGE] * (vision["image_size"] // vision["patch_size"]) ** 2
    said, words = [AUDIO] * sound["max_source_positions"], randomise.ids("words", (30,), 9, WORDS).tolist()
    written = (WORDS + oracle.codes(randomise.values("written", (1, 3, SIDE, SIDE)))[0]).tolist()
    rows = [words[:5] + seen + words[5:7] + said + words[7:9] + written + words[9:11],
            words[11:13] + seen + words[13:20] + seen + said]  # fmt: skip
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    features, embeds = oracle.features(pixels, heard), library.embedded(oracle.language_model, ids)
    for name, mark in (("image", IMAGE), ("audio", AUDIO)):
        embeds[ids == mark] = features[name].flatten(0, 1)
    prompt = {"inputs_embeds": embeds, "attention_mask": mask}
    alone = [(row, {"input_ids": ids[row][mask[row].bool()][None], "pixel_values": own,
                    "audio_values": heard[row, None]}) for row, own in enumerate((pixels[:1], pixels[1:]))]  # fmt: skip
    return Expected(
        inputs={"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "audio_values": heard},
        logits=library.logits(oracle.language_model, prompt),
        features=features,
        generated=torch.cat((ids, library.greedy(oracle.language_model, prompt, {})), 1),
        alone=alone,
    )


def size() -> Size:
    """The illustrative sizes by the library's parts on the meta device; Whisper's sinusoids are no parameters."""

    @cache
    def oracle() -> Composite:
        with library.quiet() as transformers, torch.device("meta"):
            return Composite(transformers, ILLUSTRATIVE)

    def shapes() -> Shapes:
        return {name: tuple(x.shape) for name, x in oracle().on_disk().items()}

    def parameters() -> int:
        return sum(x.numel() for name, x in oracle().named_parameters() if "embed_positions" not in name)

    source = "transformers GemmaForCausalLM, SiglipVisionModel, WhisperModel and Emu3VQVAE of sizes chosen here"
    return Size(variant="illustrative", shapes=shapes, source=source, parameters=parameters, needs="transformers")


def tokenizer(folder: Path) -> int:
    """A tokenizer of bytes with Gemma's turns and, behind them, the marks and tokens of pictures; its size."""
    specials = ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", *PLACEHOLDERS.values()]
    byte_tokenizer(folder, specials, bos="<bos>", eos="<end_of_turn>", pad="<pad>")
    pipeline = Tokenizer.from_file(str(folder / "tokenizer.json"))
    names = [BEGIN, END, *map(code_name, range(CODES))]
    pipeline.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
    pipeline.save(str(folder / "tokenizer.json"))
    return int(pipeline.get_vocab_size(with_added_tokens=True))


def written_folder(folder: Path) -> dict[str, Any]:
    """A tiny Gemini with fresh weights: 4 tokens a picture, 20 for 0.4 seconds of sound, 16 for a written picture."""
    torch.manual_seed(0)
    text = {**TEXT, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 16,
            "vocab_size": tokenizer(folder) - CODES, "max_position_embeddings": 512}  # fmt: skip
    config = {"model_type": "gemini", "text_config": text, "vision_config": VISION, "vq_config": STILL,
              "audio_config": {**SOUND, "max_source_positions": 20}, "image_size": SIDE, "image_token_id": 5,
              "audio_token_id": 6}  # fmt: skip
    model_spec = SYSTEM.formats[0].model_spec(config)
    module: Any = model_spec.build()
    spread_codes(module.generators["image"])
    write_config(folder, config=config)
    write_weights(folder, module, model_spec.keys[0])
    return config


def asked(index: int) -> tuple[Any, ...]:
    """A picture, a piece of the recorded sentence and a film of the next picture, with words between them."""
    pictures = real.pictures()
    seen = pm.media(film(zoomed(pictures[index + 1][0], 3)))
    return ("See", pm.image(pictures[index][0]), "hear", recording(index, PIECE), "watch", seen, "say all.")


def answer_to(index: int) -> str:
    """Name of the picture, words heard, name of what the film shows."""
    names = real.captions(COUNT + 1)
    return f"{names[index]}; {spoken_pieces(PIECE)[index][1]}; {names[index + 1]}"


def wish(index: int) -> str:
    return f"Draw {real.captions(COUNT)[index]}."


def talks() -> list[list[Message]]:
    """All of it asked about at once; pictures drawn from their names."""
    made = []
    for index in range(COUNT):
        parts = tuple(Text(part) if isinstance(part, str) else part for part in asked(index))
        drawn = pm.image(real.pictures()[index][0])
        made += [
            [Message(role="user", parts=parts), Message(role="assistant", parts=(Text(answer_to(index)),))],
            [Message(role="user", parts=(Text(wish(index)),)), Message(role="assistant", parts=(drawn,))],
        ]
    return made


def training_check(*, whole: bool) -> TrainingCheck:
    """The talks through the processor of a tiny folder; whole: every word and picture token is learned."""
    with tempfile.TemporaryDirectory() as directory:
        written_folder(Path(directory))
        model = pm.load(directory)
        batch = model.processor(talks())
    if whole:
        ids = batch["input_ids"]
        unlearned = (batch["attention_mask"] == 0) | (ids == 5) | (ids == 6)
        batch["labels"] = ids.masked_fill(unlearned, -100)
    return TrainingCheck(model=model.module, batches=lambda step: batch)


def headline() -> HeadlineResult:
    """A tiny Gemini is asked about a picture, sound and a film in one message, and draws pictures from their names."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = written_folder(folder)
        train_on_conversations(pm.load(folder), talks(), writer(folder, SYSTEM.formats[0].model_spec(config)),
                               steps=150, lr=5e-3)  # fmt: skip
        model: Any = pm.load(folder)
        named = sum(model.chat(*asked(i), max_tokens=80).text.strip() == answer_to(i) for i in range(COUNT))
        read, drawn = model.processor.rewrite, 0
        for index in range(COUNT):
            found = model.draw(wish(index), seed=index).media["image"][0]
            pixels = read.transform(pm.image(real.pictures()[index][0]).picture)[None]
            codes = model.module.picture_codes(pixels)
            spelled = model.module.spelling(codes)
            wanted = model.module.pixels(spelled, *codes.shape[1:])[0].clamp(-1, 1)
            seen = read.transform(found)
            drawn += float((seen - wanted).abs().max()) < 0.01
    return HeadlineResult(
        ok=named == drawn == COUNT,
        evidence=f"tiny weights trained on {COUNT} samples: chat answers {named} of {COUNT} questions about a picture, "
        f"a piece of a real recording and a film in one message, and {drawn} of {COUNT} pictures are drawn token by "
        "token from their names (nothing was released)",
    )


EVIDENCE = Evidence(
    oracle="paper: arXiv 2312.11805; its decoder as transformers GemmaForCausalLM with one head of keys and values, "
    "its senses as SiglipVisionModel and the encoder of WhisperModel, its picture tokens as codes of Emu3VQVAE",
    cases=(
        case("pictures, sound and a written picture among words"),
        case("one layer, one head, odd widths, other senses", num_hidden_layers=1, num_attention_heads=1, head_dim=6,
             hidden_size=33, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
             vision={"image_size": 24, "patch_size": 8, "num_hidden_layers": 1},
             sound={"d_model": 36, "encoder_layers": 1, "num_mel_bins": 20, "max_source_positions": 9}),
    ),
    published=(size(),),
    training_checks={"pretrain": lambda: training_check(whole=True), "instruct": lambda: training_check(whole=False)},
    headline=headline,
    exceptions=(
        "nothing was released; read from the report: a decoder with multi-query attention and 32,768 tokens, all "
        "modalities from the beginning, sound at 16 kHz, a video as its frames (16), pictures written as tokens",
        "no size was published but the totals of Nano-1 (1.8 billion) and Nano-2 (3.25 billion): the variant "
        "`illustrative` has sizes chosen here, its count is that of the same parts in transformers and of no Gemini",
        "not published and chosen here: Gemma's blocks, activation, norms, rope and tied head; SigLIP and a linear for "
        "pictures (the report names Flamingo, CoCa and PaLI as what inspired it); vocabulary and its order",
        "USM was not released: Whisper's encoder of a fixed window stands for it, with a linear; whether sound is read "
        "as features or otherwise compressed was not published",
        "the codec of written pictures was not published: Emu3's stands for it, and how codes are drawn is chosen",
        "no prompt was published: turns are Gemma's, marks of pictures were chosen here; a video's sound is not heard",
        "sizes of data, mixture, rates, batches, steps and losses are unknown; reward models, RLHF and the "
        "distillation of the Nano sizes are not stages here",
        "the JSON of generateContent is read and written in Python (`systems/gemini/contents.py`), not served; "
        "AlphaCode 2, tools and search of the products are not part of it",
    ),
)  # fmt: skip
