"""Unified-IO 2 against its official torch port (run outside: fixtures), and tiny weights that name, hear, draw and
sound."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import byte_tokenizer, spread_codec, write_config, write_layout
from polymodal.check.fixture import counted_case, fixture_case, fixture_size, fixture_source, packed_size, store
from polymodal.check.record import Case, Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_batch, learned, rows
from polymodal.data.audio_writing import encode_sound
from polymodal.generation.sampling import SamplingOptions
from polymodal.generators import hifigan
from polymodal.systems import LanguageModeling
from polymodal.systems.unified_io_2 import SYSTEM
from polymodal.systems.unified_io_2.painting import SOUND_MEAN, SOUND_STD, CodePainter
from polymodal.systems.unified_io_2.processing import RATE, Piece, picture_patches, spectrogram, split
from polymodal.systems.unified_io_2.vocoder import CONFIG, HOP, PARAMETERS, VOICE
from polymodal.weights.export import export_tensors

SPECIALS = ("<s>", "</s>", "<unk>")
WORDS, CODES, TONES = 1504, 66, 34
GRID, PATCHES = (2, 2), 4


def small(words: int = WORDS) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 4 patches a picture that is read, 16 codes for one that
    is written, of 32 x 32 pixels; sound at its real size, written as 32 codes."""
    vit = {"emb_dim": 24, "num_heads": 2, "num_layers": 2, "mlp_dim": 48}
    resampler = {"latents_size": 2, "emb_dim": 24, "num_heads": 2, "num_layers": 1, "xattention_index": [0],
                 "mlp_dim": 48}  # fmt: skip
    side = {"hidden_size": 16, "num_layers": 1, "mlp_dim": 32, "num_heads": 2}
    return {
        "t5_config": {"vocab_size": words, "image_vocab_size": CODES, "audio_vocab_size": TONES, "emb_dim": 48,
                      "num_heads": 3, "head_dim": 16, "mlp_dim": 96, "num_encoder_layers": 1, "num_decoder_layers": 1,
                      "encoder_max_image_length": 4, "decoder_max_image_length": 16, "encoder_max_text_length": 96,
                      "decoder_max_text_length": 64, "default_image_vit_size": [32, 32],
                      "default_image_history_vit_size": [32, 32]},
        "image_history_cfg": resampler, "audio_history_cfg": resampler, "image_vit_cfg": {**vit, "num_pos": 5},
        "audio_vit_cfg": vit,
        "image_vqgan": {"n_embed": 64, "resolution": 32, "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1,
                        "attn_resolutions": [], "default_input_size": [32, 32]},
        "audio_vqgan": {"vocab_size": 32, "proj_dim": 8, "patch_size": [32, 32],
                        **{f"{way}_{name}": value for way in ("encoder", "decoder") for name, value in side.items()}},
    }  # fmt: skip


def fresh(words: int = WORDS) -> Any:
    """A tiny model whose codecs tell pictures and sounds apart."""
    torch.manual_seed(0)
    module: Any = SYSTEM.formats[0].model_spec(small(words)).build()
    spread_codec(module.codecs["image"], 32)
    return module


def write_voice(folder: Path) -> None:
    """A fresh narrow vocoder as published; what it makes is loud enough to be told from silence, and no speech."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = {**CONFIG, "upsample_initial_channel": 16}
    module = hifigan.parse_config(config).build().eval()
    with torch.no_grad():
        module.conv_out.weight.mul_(20)
    write_config(folder, config=config)
    store(export_tensors(module, hifigan.weight_norm_keys(module.config.paired)), folder / "vocoder.pt", "generator")


def sounds(count: int) -> torch.Tensor:
    """Real speech, window by window, as targets [count, 1, 128, 256]."""
    windows = split(real.speech(RATE).numpy())[:count]
    mels = torch.stack([spectrogram(torch.from_numpy(each))[:, :256] for each in windows])
    logs = mels.clamp(1e-5, 1e5).log() * (mels != 0)
    return (logs[:, None] - SOUND_MEAN) / SOUND_STD


def seen_pictures(count: int = real.COUNT) -> torch.Tensor:
    """Patches [count, P, values] of the pictures."""
    made = [picture_patches(Piece(np.asarray(picture)), GRID, "pixel_values", "image_input_masks")
            for picture, _ in real.pictures()[:count]]  # fmt: skip
    return torch.stack([each["pixel_values"] for each in made])


def training_check(*, restore: bool) -> TrainingCheck:
    """Names of real pictures, letter by letter.  restore: in turn pictures from their names, speech from a word, and
    the second half of a name from its first."""
    module, names, patches = fresh(40), real.captions(), seen_pictures()
    pixels, speech = real.pixels(32), sounds(2) if restore else None
    place = module.placeholders["image"]

    def batches(step: int) -> dict[str, Any]:
        chosen = rows(step // 3, 8)
        prompt = [32] if restore else [32, *[place] * PATCHES]
        made: dict[str, Any] = caption_batch([names[i] for i in chosen], prompt, 3)
        letters, ids = made["labels"][:, len(prompt) :], made["input_ids"]
        if not restore:
            return {"input_ids": ids[:, : len(prompt)], "pixel_values": patches[chosen], "labels": letters}
        if step % 3 == 0:
            return {"input_ids": ids, "attention_mask": made["attention_mask"], "target_pixel_values": pixels[chosen]}
        if step % 3 == 1:
            return {"input_ids": torch.tensor([[33, 34], [33, 35]]), "target_spectrograms": speech}
        half = letters.shape[1] // 2
        return {"input_ids": letters[:, :half].clamp_min(0), "attention_mask": (letters[:, :half] >= 0).long(),
                "labels": letters[:, half:]}  # fmt: skip

    return TrainingCheck(model=module, batches=batches, steps=36)


def headline(count: int = 2) -> HeadlineResult:
    """A tiny Unified-IO 2 learns to name pictures and recordings and to draw; then `chat` and its painter are asked."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        byte_tokenizer(folder, SPECIALS, bos="<s>", eos="</s>", pad="<s>")
        write_config(folder, config=small())
        format, spec = SYSTEM.formats[0], SYSTEM.formats[0].model_spec(small())
        write_layout(folder / "pytorch_model.bin", fresh(), format, spec)
        model: Any = pm.load(folder)
        teach(model, count)
        write_layout(folder / "pytorch_model.bin", model.module.eval(), format, spec)
        write_voice(folder / VOICE)
        final = pm.load(folder)
        (named, heard, drawn), sounded = asked(final, count), sounds_like_a_file(final, folder / "bell.wav")
    return HeadlineResult(
        ok=named == drawn == count and heard == 2 and sounded,
        evidence=f"tiny weights that learned {count} pictures and 2 recordings: chat names {named} and {heard}, "
        f"{drawn} pictures are drawn code by code from their names, and {'a' if sounded else 'no'} sound of 4.1 s is "
        "written (the published weights were not at hand; the tiny vocoder's sound is no speech)",
    )


def sounds_like_a_file(model: Any, file: Path) -> bool:
    """Whether a sound is written to a file of 65,536 samples, and is no silence."""
    (made,) = model.compose("a bell", make="audio", seed=0).media["audio"]
    file.write_bytes(encode_sound(made.samples(RATE), RATE, "wav"))
    heard = pm.audio(file).samples(RATE)
    return heard.shape == (256 * HOP,) and float(np.sqrt((heard**2).mean())) > 1e-3


def vocoder_alone() -> HeadlineResult:
    """The vocoder as a folder of its own makes a sound of the spectrogram of real speech."""
    with tempfile.TemporaryDirectory() as directory:
        write_voice(Path(directory))
        logs = sounds(1)[:, 0] * SOUND_STD + SOUND_MEAN
        made = pm.load(directory).predict(spectrogram=logs)["waveform"][0]
    ok = made.shape == (256 * HOP,) and float(made.square().mean().sqrt()) > 1e-3
    return HeadlineResult(ok=ok, evidence=f"the spectrogram of real speech became {len(made):,} samples")


def recordings() -> list[tuple[Any, str]]:
    """Speech, and a tone of the same length."""
    speech = real.speech(RATE).numpy()[: int(4.08 * RATE)]
    tone = 0.3 * np.sin(np.arange(len(speech)) * 2 * np.pi * 440 / RATE).astype(np.float32)
    return [(pm.audio((speech, RATE)), "speech"), (pm.audio((tone, RATE)), "a tone")]


def teach(model: Any, count: int) -> None:
    """Names of what is seen and heard, and pictures of names, in turn, through the model's own processor."""
    things = [*((pm.image(picture), name) for picture, name in real.pictures()[:count]), *recordings()]
    talks = [[{"role": "user", "content": [item, "What is it?"]}, {"role": "assistant", "content": name}]
             for item, name in things]  # fmt: skip
    drawn = model.processor([[{"role": "user", "content": f"[Image] [S] {name}"}] for name in real.captions(count)])
    pictures = {"input_ids": drawn["input_ids"], "attention_mask": drawn["attention_mask"],
                "target_pixel_values": real.pixels(32, count=count)}  # fmt: skip
    batches = [model.processor(talks), pictures]
    lesson = TrainingCheck(model=model.module, batches=lambda step: batches[step % 5 in (2, 4)], steps=230, lr=4e-3)
    learned(lesson, LanguageModeling(), train=("connectors", "backbone"))


def asked(model: Any, count: int) -> tuple[int, int, int]:
    """How many pictures are named, recordings named, pictures drawn."""
    right = [[model.chat(item, "What is it?", max_tokens=30).text.strip() == name for item, name in things]
             for things in ([(pm.image(p), name) for p, name in real.pictures()[:count]], recordings())]  # fmt: skip
    painter, greedy = CodePainter(model=model.module, processor=model.processor), SamplingOptions(max_tokens=16)
    wanted = model.module.targets("image", real.pixels(32, count=count))["labels"]
    drawn = sum(torch.equal(painter.codes("image", name, greedy, scale=0)[0], ids)
                for name, ids in zip(real.captions(count), wanted, strict=True))  # fmt: skip
    return sum(right[0]), sum(right[1]), drawn


def official(name: str, fixture: str) -> Case:
    """Rows with a picture and history, with sound and its history, with words alone."""
    counts = {"pixel_values": (1, 1, 0), "image_input_masks": (1, 1, 0), "history_values": (1, 2, 0),
              "history_masks": (1, 2, 0), "audio_values": (0, 1, 0), "audio_input_masks": (0, 1, 0),
              "segment_values": (2, 0, 0), "segment_masks": (2, 0, 0)}  # fmt: skip
    return counted_case(name, fixture, beside=("decoder_input_ids",), **counts)


EVIDENCE = Evidence(
    oracle=fixture_source("unified_io_2"),
    cases=(
        official("pictures, frames, sounds and none, with borders", "unified_io_2"),
        official("attention by cosine in the resamplers, another depth of the decoder", "unified_io_2_cosine"),
        fixture_case("the vocoder that the port carries", "unified_io_2_vocoder"),
        fixture_case("a vocoder of pairs of convolutions, odd kernels", "unified_io_2_vocoder_pairs"),
    ),
    published=(
        *(packed_size("unified_io_2_sizes", each.name, each.parameters) for each in SYSTEM.variants[:3]),
        fixture_size("unified_io_2_vocoder", "vocoder", PARAMETERS, fixture_source("unified_io_2_vocoder")),
    ),
    training_checks={"pre-train": lambda: training_check(restore=True),
                     "instruct": lambda: training_check(restore=False)},
    headline=headline,
    layouts={SYSTEM.formats[1].name: vocoder_alone},
    exceptions=(
        "names and shapes are those of the official torch port; the published files and LLaMA's tokenizer were not "
        "at hand",
        "sparse patterns for codes, and the mask that hides a part of a target from the decoder, are prepared by the "
        "port and by the Jax code and added to scores only beside another bias, which both leave out; so none are here",
        "the mixture of denoisers is made by the caller, since the released code has none of its numbers, and rows are "
        "not packed; steps, shares and data of the recipe are recalled",
        "pictures and mels were not compared with TensorFlow's and librosa's: torch resizes here, frames of a video "
        "are spread evenly and black bars stay",
        "without its vocoder the port can also guess a sound's phases by Griffin-Lim; here the vocoder is needed",
        "official code asks with one of many prompts at random; here words stand as they are, behind their prefix",
    ),
)  # fmt: skip
