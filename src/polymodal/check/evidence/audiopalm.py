"""AudioPaLM, of which nothing was released: its decoder against Cohere's of transformers, the nearest released one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import polymodal as pm
from polymodal.check import library
from polymodal.check.demo import train_on_conversations, writer
from polymodal.check.evidence import _text
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Shapes, Size, TrainingCheck
from polymodal.check.unit_speech import (
    SECOND,
    UNITS,
    frame_units,
    recording,
    spoken_pieces,
    tokenizer_with_units,
    write_model,
)
from polymodal.data.media import Text
from polymodal.data.messages import Message, user
from polymodal.systems.audiopalm import SYSTEM
from polymodal.systems.audiopalm.tasks import FORM

PIECE, COUNT = 0.4, 2  # seconds of a piece of the recording, and how many of them are used
INSIDE = "language_model."
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "head_dim": 20, "intermediate_size": 72,
         "vocab_size": 61, "layer_norm_eps": 1e-4, "rope_theta": 10_000.0}  # fmt: skip


def cohere(transformers: Any, text: dict[str, Any], audio: int) -> Any:
    """Cohere's decoder with PaLM's choices: one key head, logits divided by sqrt(width)."""
    sizes = {name: value for name, value in text.items() if name != "rope_theta"} | {
        "vocab_size": text["vocab_size"] + audio
    }
    rope = {"rope_type": "default", "rope_theta": text["rope_theta"]}
    return transformers.CohereConfig(**sizes, num_key_value_heads=1, logit_scale=sizes["hidden_size"] ** -0.5,
                                     rope_parameters=rope, pad_token_id=0)  # fmt: skip


def case(name: str, audio: int, **changes: Any) -> Case:
    """A checkpoint of test size with ids of text and of audio in every row."""
    text = {**SIZES, **changes}

    def make(folder: Path) -> Expected:
        with library.quiet() as transformers, torch.no_grad():
            config = cohere(transformers, text, audio)
            oracle = library.built(transformers, "CohereForCausalLM", config)
            weights = {INSIDE + key: x.contiguous() for key, x in library.names_on_disk(oracle).items()}
            save_file(weights, folder / "model.safetensors")
            ours = {"model_type": "audiopalm", "text_config": text, "audio_vocab_size": audio}
            (folder / "config.json").write_text(json.dumps(ours), encoding="utf-8")
            given = _text.inputs(config)
            return Expected(inputs=given, logits=library.logits(oracle, given), alone=_text.alone(config, given),
                            generated=library.greedy(oracle, given, {}))  # fmt: skip

    return Case(name=name, make=make, needs="transformers")


def size() -> Size:
    """PaLM 8B with 1024 rows more, by Cohere's decoder on the meta device."""

    def shapes() -> Shapes:
        text = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 16, "head_dim": 256,
                "intermediate_size": 16384, "vocab_size": 256_000, "rope_theta": 10_000.0}  # fmt: skip
        with library.quiet() as transformers, torch.device("meta"):
            oracle = transformers.CohereForCausalLM(cohere(transformers, text, 1024))
            return {INSIDE + name: tuple(x.shape) for name, x in library.names_on_disk(oracle).items()}

    def parameters() -> int:
        return sum(int(torch.Size(shape).numel()) for shape in shapes().values())

    source = "transformers CohereForCausalLM of PaLM 8B's sizes and 1024 rows more, on the meta device"
    return Size(variant="8b", shapes=shapes, source=source, parameters=parameters, needs="transformers")


def written_folder(folder: Path) -> dict[str, Any]:
    """A tiny AudioPaLM with fresh weights, with ears and a voice."""
    torch.manual_seed(0)
    size = tokenizer_with_units(folder, ["<unk>", "<s>", "</s>"], [])
    text = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
            "vocab_size": size - UNITS}  # fmt: skip
    config = {"model_type": "audiopalm", "text_config": text, "audio_vocab_size": UNITS}
    write_model(folder, SYSTEM.formats[0], config)
    return config


def talks() -> list[list[Message]]:
    """Of each piece: recognised; "translated" into the next piece, in tokens and by the chain; its words read aloud."""
    words, units = [share for _, share in spoken_pieces(PIECE)], frame_units(PIECE, FORM.every)
    found: list[tuple[Sequence[Any], str]] = []
    for index in range(COUNT):
        own, after = FORM.written(units[index]), FORM.written(units[index + 1])
        heard = recording(index, PIECE)
        found += [
            (("[ASR English]", heard), words[index]),
            (("[S2ST English French]", heard), after),
            (
                ("[ASR AST S2ST English French]", heard),
                f"{words[index]}\n{words[index + 1]}\n{after}",
            ),
            ((f"[TTS English] {words[index]}",), own),
        ]
    return [[user(*asked), Message(role="assistant", parts=(Text(said),))] for asked, said in found]


def training_check() -> TrainingCheck:
    """All tasks on pieces of a real recording, through the processor of a tiny folder."""
    with tempfile.TemporaryDirectory() as directory:
        written_folder(Path(directory))
        model = pm.load(directory)
        batch = model.processor(talks())
    return TrainingCheck(model=model.module, batches=lambda step: batch)


def headline() -> HeadlineResult:
    """A tiny AudioPaLM hears pieces of a real recording, writes them down, speaks the piece that follows, does both in
    one answer, and reads words aloud."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = written_folder(folder)
        train_on_conversations(pm.load(folder), talks(), writer(folder, SYSTEM.formats[0].model_spec(config)),
                               steps=150, lr=1.2e-2)  # fmt: skip
        model, words, right = pm.load(folder), [share for _, share in spoken_pieces(PIECE)], 0
        units = frame_units(PIECE, FORM.every)
        for index in range(COUNT):
            heard = recording(index, PIECE)
            right += model.chat("[ASR English]", heard, max_tokens=40).text == words[index]
            spoken = model.speak("[S2ST English French]", heard, max_tokens=40)
            chained = model.speak("[ASR AST S2ST English French]", heard, max_tokens=80)
            right += (chained.heard, chained.text) == (words[index], words[index + 1])
            read = model.say(words[index], max_tokens=40)
            for speech, wanted in ((spoken.media["audio"], units[index + 1]), ((read,), units[index])):
                right += [len(each.samples) for each in speech] == [320 * len(wanted)] and _sounds(speech[0], folder)
    return HeadlineResult(
        ok=right == 4 * COUNT,
        evidence=f"tiny weights trained on {COUNT} pieces of a real recording, four tasks each: {right} of {4 * COUNT} "
        "are recognised, answered in words and tokens at once, or spoken to a WAV file of the right length (nothing "
        "was released; the tiny voice's sound is no speech)",
    )


def _sounds(speech: Any, folder: Path) -> bool:
    speech.save(folder / "spoken.wav")
    heard = pm.audio(folder / "spoken.wav").samples(SECOND)
    return len(heard) == len(speech.samples) and float(np.sqrt((heard**2).mean())) > 1e-3


EVIDENCE = Evidence(
    oracle="paper: PaLM's decoder as CohereForCausalLM of transformers, with the rows of the audio tokens",
    cases=(
        case("heads wider than the model, 24 audio tokens", 24),
        case("one layer, one head, 1024 audio tokens", 1024, num_hidden_layers=1, num_attention_heads=1, head_dim=6,
             hidden_size=33),
    ),
    published=(size(),),
    training_checks={"fine-tune": training_check},
    headline=headline,
    exceptions=(
        "nothing was released; read from the paper: one table for text and audio tokens, its new rows zeros, tags of "
        "tasks and their chains, 1024 tokens of 25 Hz, loss on answers; the size is PaLM 8B's, PaLM-2's is unknown",
        "USM-v2, whose clusters the tokens are, was not released: a HuBERT of the folder stands for it, every second "
        "feature",
        "AudioLM's and SoundStorm's stages, SoundStream and the voice prompt of three seconds are not part of it: a "
        "unit vocoder of the folder speaks the tokens, with one voice",
        "not published and chosen here: a space behind a tag, a line break between the outputs of a chain, ids in the "
        "order of the clusters; Adafactor is replaced by AdamW",
    ),
)  # fmt: skip
