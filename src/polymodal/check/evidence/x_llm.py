"""X-LLM against its published code, with the ChatGLM of its repository, run outside the project."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import randomise, real
from polymodal.check.demo import byte_tokenizer, train_on_conversations, write_config, write_layout
from polymodal.check.evidence import blip_2, visualglm
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_batch, caption_check, rows
from polymodal.data.kaldi import fbank
from polymodal.data.media import Audio, Media, Text
from polymodal.data.messages import Message
from polymodal.systems.x_llm import SYSTEM
from polymodal.systems.x_llm.checkpoint import WIDTH
from polymodal.systems.x_llm.processing import padded

QUERIES, PIECES = 4, 7


def case(name: str, fixture: str) -> Case:
    """Rows of a picture and an utterance, of a video, of an utterance and of words; the first is generated from."""
    about, tensors = read(fixture)
    spoken, lengths = tensors["in.speech_input"], tensors["in.speech_lengths"].tolist()
    values = {key: randomise.values(key, shape) for key, shape in json.loads(about["made"]).items()}
    alone: list[tuple[int, Tensors]] = [(row, {"input_ids": unpadded(tensors, row)}) for row in range(4)]
    alone[0][1].update(pixel_values=values["pixel_values"], speech_input=spoken[:1, : lengths[0]])
    alone[1][1].update(video_values=values["video_values"])
    alone[2][1].update(speech_input=spoken[1:, : lengths[1]])
    asked = tensors["out.generated"][:, :-16]
    return fixture_case(name, fixture, alone=alone, prompt={**alone[0][1], "input_ids": asked})


def spoken_case(name: str, fixture: str) -> Case:
    """Rows of a picture and a recording, of a longer recording and of words; the first is generated from."""
    about, tensors = read(fixture)
    values = {key: randomise.values(key, shape) for key, shape in json.loads(about["made"]).items()}
    frames = tensors["in.audio_frames"].tolist()
    alone: list[tuple[int, Tensors]] = [(row, {"input_ids": unpadded(tensors, row)}) for row in range(3)]
    for row, count in enumerate(frames):
        alone[row][1].update(audio_values=values["audio_values"][row : row + 1, :count])
    alone[0][1].update(pixel_values=values["pixel_values"])
    asked = tensors["out.generated"][:, :-16]
    return fixture_case(name, fixture, alone=alone, prompt={**alone[0][1], "input_ids": asked})


def small(vocabulary: int, mask: int) -> dict[str, Any]:
    """A config for training checks and the demonstration: 4 queries that read pictures of 56 x 56."""
    found = blip_2.small({}, vocabulary, vocabulary)
    found.pop("image_token_index")
    bert = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    return {**found, "model_type": "x-llm", "num_query_token": found.pop("num_query_tokens"), "bert_config": bert,
            "text_config": visualglm.glm(vocabulary, mask)}  # fmt: skip


EARS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
        "num_mel_bins": 80, "conv_depthwise_kernel_size": 7}  # fmt: skip


def spoken() -> list[tuple[torch.Tensor, str]]:
    """Seconds of the recorded sentence as rows of 512 numbers, and the words at about that place of it.

    The published encoder is not at hand: the rows are six or so filter banks of 80 bins behind each other.
    """
    samples, words = real.speech(), real.SPOKEN.split()
    found = []
    for i in range(PIECES):
        banks = fbank(samples[i * 16_000 : (i + 1) * 16_000], 80)
        flat = ((banks - banks.mean()) / banks.std()).flatten()
        share = " ".join(words[i * len(words) // PIECES : (i + 1) * len(words) // PIECES])
        found.append((flat[: len(flat) // WIDTH * WIDTH].view(-1, WIDTH), share))
    return found


def fresh() -> torch.nn.Module:
    """A tiny model whose frozen language model answers to what is shown, as a fresh one would not."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40, 32)).build()
    randomise.fill(model.get_submodule("backbone"))
    return model


def picture_check() -> TrainingCheck:
    """Pictures are named behind ChatGLM's two marks."""
    return caption_check(fresh(), [*[40] * QUERIES, 32, 33], side=56, steps=80)


def video_check() -> TrainingCheck:
    """Videos of two frames, each picture and the next one."""
    pixels = real.pixels(56)

    def films(chosen: list[int]) -> dict[str, Any]:
        frames = [index for i in chosen for index in (i, (i + 1) % len(pixels))]
        return {"pixel_values": None, "video_values": pixels[frames], "frame_counts": (2,) * len(chosen)}

    return caption_check(fresh(), [*[41] * 2 * QUERIES, 32, 33], side=56, steps=80, more=films)


def speech_check() -> TrainingCheck:
    """Seconds of real speech and their words."""
    pieces = spoken()
    prompt = [*[42] * len(pieces[0][0]), 32, 33]

    def batches(step: int) -> dict[str, Any]:
        chosen = rows(step, 4, PIECES)
        return caption_batch([pieces[i][1] for i in chosen], prompt) | padded([pieces[i][0] for i in chosen])

    return TrainingCheck(model=fresh(), batches=batches, steps=80)


def joint_check() -> TrainingCheck:
    """A picture and a second of speech in one prompt; the picture is named."""
    pieces = spoken()
    count = len(pieces[0][0])
    return caption_check(fresh(), [*[40] * QUERIES, *[42] * count, 32, 33], side=56, steps=80,
                         more=lambda chosen: padded([pieces[i % PIECES][0] for i in chosen]))  # fmt: skip


def headline() -> HeadlineResult:
    """A tiny X-LLM in the official layout, its speech encoder frozen, writes down seconds of real speech and names
    pictures."""
    torch.manual_seed(0)
    samples = real.speech().numpy()
    heard: list[tuple[Media, str, str]] = [
        (Audio((samples[i * 16_000 : (i + 1) * 16_000], 16_000)), "\u8bf7\u8bc6\u522b", words)
        for i, (_, words) in enumerate(spoken()[:4])
    ]
    shown: list[tuple[Media, str, str]] = [
        (pm.image(picture), "\u8fd9\u662f\u4ec0\u4e48\uff1f", name) for picture, name in real.pictures()[:4]
    ]
    format = SYSTEM.formats[0]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = small(byte_tokenizer(folder, visualglm.SPECIALS, eos="<eop>", pad="<pad>"), 0)
        config["speech_config"] = EARS
        write_config(folder, config=config)
        spec = format.model_spec(config)

        def write(module: Any) -> Path:
            return write_layout(folder / "model.pth", module, format, spec)

        write(spec.build())
        talks = [[Message(role="user", parts=(item, Text(question))), Message(role="assistant", parts=(Text(said),))]
                 for item, question, said in (*heard, *shown)]  # fmt: skip
        # How many tokens a sound has depends on its encoder, and the prompts are written before it learns.
        train_on_conversations(pm.load(folder), talks, write, steps=300, lr=1e-3, frozen=("encoders.features",))
        model = pm.load(folder)
        right = [sum(model.chat(item, question, max_tokens=48).text.strip() == said for item, question, said in group)
                 for group in (heard, shown)]  # fmt: skip
    return HeadlineResult(
        ok=right == [4, 4],
        evidence="tiny weights trained on real speech, behind a frozen encoder of random ones, and on pictures: chat "
        f"writes down {right[0]} of 4 seconds and names {right[1]} of 4 pictures (no weights were published)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("x_llm"),
    cases=(
        case("picture and utterance, video, utterance with a row of zeros, words", "x_llm"),
        case("one linear in place of the BERT, one feature, one frame", "x_llm_fc"),
        spoken_case(
            "sound through conformer and CIF, two lengths, a rest that fires and one that does not", "x_llm_spoken"
        ),
    ),
    published=tuple(packed_size("x_llm_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"image": picture_check, "video": video_check, "speech": speech_check, "instruct": joint_check},
    headline=headline,
    exceptions=(
        "no weights were published: the number is that of the official classes at the published sizes",
        "the speech encoder was not published, its sizes and names are not known: what it gives, a row of 512 numbers "
        "for each acoustic token, is what the released sizes take, as the published code reads it from files; a config "
        "with `speech_config` has one built from the papers (conformer; CIF as its authors' published module has it)",
        "the first stage (Q-Former of BLIP-2, the speech encoder's own training) is not in the published scripts",
        "published code fills a video of fewer frames with empty ones; here only its own are seen",
        "a first question is asked in the words of training; the published demo leaves them out until the second",
    ),
)
