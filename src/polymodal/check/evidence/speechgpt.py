"""SpeechGPT against transformers (the language model, mHuBERT) and fairseq's own vocoder, whose outputs are stored."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polymodal as pm
from polymodal.check import library, randomise
from polymodal.check.demo import train_on_conversations, writer
from polymodal.check.evidence._text import case
from polymodal.check.fixture import fixture_case, fixture_source, packed_size
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, HeadlineResult, Shapes, Size, Tensors, TrainingCheck
from polymodal.check.training import table
from polymodal.check.unit_speech import (
    SECOND,
    UNITS,
    recording,
    spoken_pieces,
    tokenizer_with_units,
    units_of_pieces,
    write_ears,
    write_model,
    write_voice,
)
from polymodal.checkpoints.unit_speech import LAYER, SpeechFiles
from polymodal.data.media import Text
from polymodal.data.messages import Message, user
from polymodal.generators.unit_vocoder import UnitVocoder
from polymodal.pipelines.speech_units import BEGIN, END, MERGED
from polymodal.systems.speechgpt import SYSTEM
from polymodal.systems.speechgpt.prompts import ASKED, HUMAN, NAME, SAY

PIECE, COUNT = 0.4, 2  # seconds of a piece of the recording, and how many of them are used
SPECIALS, MARKS = ["<unk>", "<s>", "</s>"], [BEGIN, END, HUMAN, NAME, ASKED, "<eos>"]


def encoder(name: str, **changes: Any) -> Case:
    """A HubertModel of test size: features of layer 11, or of the last where it has fewer."""
    small = {"hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 40,
             "conv_dim": [16] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
             **changes}  # fmt: skip

    def features(oracle: Any, given: Tensors) -> dict[str, Any]:
        return {"audio": library.layer(oracle, min(LAYER, small["num_hidden_layers"]), given["input_values"])}

    def inputs(config: Any) -> Tensors:
        return {"input_values": randomise.values("samples", (2, 5000))}

    return hugging_case(name, "HubertModel", lambda t: t.HubertConfig(**small), inputs,
                        reading=Reading(logits=None, features=features))  # fmt: skip


def encoder_size() -> Size:
    """HubertModel of the library; the weight of its positions counts once, without the lengths beside it."""
    whole = hugging_size("mhubert", "HubertModel", lambda t: t.HubertConfig())

    def parameters() -> int:
        shapes: Shapes = whole.shapes()
        return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(("original0", "weight_g")))

    return Size(variant="mhubert", shapes=whole.shapes, source=whole.source, parameters=parameters, needs=whole.needs)


def configured(config: Any, transformers: Any) -> Any:
    return transformers.LlamaConfig(**config)


def tiny(vocabulary: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration."""
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": vocabulary,
            "max_position_embeddings": 1024}  # fmt: skip


def unit_lines() -> TrainingCheck:
    """Units of the seconds of a real recording, every one of them learned."""
    torch.manual_seed(0)
    lines = [[1, *[5 + unit for unit in units], 2] for units in units_of_pieces()]
    ids, mask = table(lines, 0), table([[1] * len(line) for line in lines], 0)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    return TrainingCheck(model=SYSTEM.formats[0].model_spec(tiny(5 + UNITS)).build(), batches=lambda step: batch)


def written_folder(folder: Path) -> dict[str, Any]:
    """A tiny SpeechGPT with fresh weights, in the layout of its published files, and with ears and a voice."""
    torch.manual_seed(0)
    config = tiny(tokenizer_with_units(folder, SPECIALS, MARKS)) | {"_name_or_path": "SpeechGPT-7B-cm"}
    write_model(folder, SYSTEM.formats[0], config)
    return config


def talks(chained: bool = True, short: bool = True) -> list[list[Message]]:
    """Each piece of the recording is answered by the next: heard, answered in words, spoken in units; or without the
    chain, read aloud from its words.  short: with a system message in place of the long published one."""
    words, units, found = [share for _, share in spoken_pieces(PIECE)], units_of_pieces(PIECE), []
    for index in range(COUNT):
        after = index + 1
        answer = f"{words[index]}; [ta] {words[after]}; [ua] {MERGED.written(units[after])}"
        asked = user(recording(index, PIECE)) if chained else user(f"{SAY}{words[index]}")
        said = answer if chained else MERGED.written(units[index])
        begin = [Message(role="system", parts=(Text("Speak."),))] if short else []
        found.append([*begin, asked, Message(role="assistant", parts=(Text(said),))])
    return found


def conversations(chained: bool) -> TrainingCheck:
    """Published conversations of the three pieces, through the processor of a tiny folder."""
    with tempfile.TemporaryDirectory() as directory:
        written_folder(Path(directory))
        model = pm.load(directory)
        batch = model.processor(talks(chained))
    return TrainingCheck(model=model.module, batches=lambda step: batch)


def lengths(vocoder: UnitVocoder, index: int) -> int:
    """Samples of a piece's units, by the vocoder's own durations."""
    with torch.no_grad():
        return int(vocoder.lasting(torch.tensor([units_of_pieces(PIECE)[index]])).sum()) * vocoder.config.hop


def headline() -> HeadlineResult:
    """A tiny SpeechGPT in its published layout hears pieces of a real recording, writes what it heard and an answer,
    and speaks that to WAV files; asked to, it reads words aloud."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = written_folder(folder)
        write = writer(folder, SYSTEM.formats[0].model_spec(config))
        train_on_conversations(pm.load(folder), [*talks(), *talks(chained=False)], write, steps=60, lr=1e-2)
        model, vocoder, chained, loud = pm.load(folder), SpeechFiles(folder, UNITS).voice(), 0, 0
        words = [share for _, share in spoken_pieces(PIECE)]
        for index in range(COUNT):
            reply = model.speak([*talks()[index][:-1]], temperature=0.0, max_tokens=120)
            chained += (reply.heard, reply.text) == (words[index], words[index + 1])
            sounds = reply.media["audio"]
            if sounds and len(sounds[0].samples) == lengths(vocoder, index + 1):
                sounds[0].save(folder / "answer.wav")
                heard = pm.audio(folder / "answer.wav").samples(SECOND)
                loud += len(heard) == len(sounds[0].samples) and float(np.sqrt((heard**2).mean())) > 1e-3
    return HeadlineResult(
        ok=chained == loud == COUNT,
        evidence=f"tiny weights trained on {COUNT} pieces of a real recording: heard as units, {chained} are written "
        f"down and answered, {loud} answers are spoken to a WAV file of the length that the vocoder's durations say "
        "(published weights were not at hand; the tiny vocoder's sound is no speech)",
    )


def alone(write: Callable[[Path], Any], run: Callable[[Any], bool], what: str) -> HeadlineResult:
    """Half of the codec as a folder of its own: written, loaded, and run."""
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory))
        ok = run(pm.load(directory))
    return HeadlineResult(ok=ok, evidence=what if ok else f"not: {what}")


def speaks(model: Any) -> bool:
    found = model.predict(code=torch.tensor([units_of_pieces(PIECE)[0]]))["waveform"][0]
    return len(found) == lengths(model.module.vocoder, 0) and float(found.square().mean().sqrt()) > 1e-3


def hears(model: Any) -> bool:
    samples = torch.from_numpy(spoken_pieces(PIECE)[0][0])[None]
    found = model.features(input_values=samples)["audio"]
    return tuple(found.shape) == (1, (samples.shape[1] - 80) // 320, 32)


EVIDENCE = Evidence(
    oracle="transformers LlamaForCausalLM and HubertModel, and the vocoder of "
    f"{fixture_source('speechgpt_vocoder')}, joined as the official code joins them",
    cases=(
        case("units and marks behind LLaMA's words", "Llama", vocab_size=33006, rms_norm_eps=1e-6, hidden_size=16,
             num_hidden_layers=1),
        case("grouped heads", "Llama", "speechgpt", vocab_size=302, num_key_value_heads=2),
        case("one layer, tied, another size", "Llama", "speechgpt", num_hidden_layers=1, tie_word_embeddings=True),
        encoder("HuBERT, layer 11 of 12"),
        encoder("HuBERT, two layers, layer norms and biases between convolutions", num_hidden_layers=2, conv_bias=True,
                feat_extract_norm="layer", hidden_act="relu", num_conv_pos_embeddings=5, hidden_size=24,
                conv_dim=[12, 12, 20], conv_kernel=[10, 4, 3], conv_stride=[5, 3, 2]),
        fixture_case("vocoder with durations", "speechgpt_vocoder"),
        fixture_case("vocoder, two rates, three kernels", "speechgpt_vocoder_small"),
    ),
    published=(
        *(hugging_size(each.name, "LlamaForCausalLM", partial(configured, each.config))
          for each in SYSTEM.variants[:2]),
        packed_size("speechgpt_sizes", "vocoder", SYSTEM.variants[2].parameters),
        encoder_size(),
    ),
    training_checks={
        "modality-adaptation": unit_lines,
        "cross-modal-instruction": partial(conversations, False),
        "chain-of-modality": partial(conversations, True),
    },
    headline=headline,
    layouts={
        SYSTEM.formats[1].name: partial(alone, write_voice, speaks, "units of a real recording became sound"),
        SYSTEM.formats[2].name: partial(alone, write_ears, hears, "a real recording became features, 50 a second"),
    },
    exceptions=(
        "the files of the releases were not at hand: the rows of the tables are those that the training scripts make "
        "(no token for <eoa>), sizes of mHuBERT are those of HuBERT base, of the vocoder those of public copies of its "
        "config.json",
        "a sound of two channels is heard as their mean; the official code joins them one behind the other",
        "a recording of more than 1,600,000 samples is refused; the official code hears it in pieces, whose units are "
        "more than the language model takes",
    ),
)  # fmt: skip
