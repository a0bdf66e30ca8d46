"""NExT-GPT against the official class, run outside the project on a tiny ImageBind and a tiny LLaMA, with the
projectors in their published size; its conditions are compared as the headline."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import imagebind_lm, randomise, real
from polymodal.check.demo import train_on_conversations, writer
from polymodal.check.diffusion_pipelines import tiny_diffusion
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import TOLERANCE, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.data.messages import Message
from polymodal.models.signal_token_lm import SignalTokenLM
from polymodal.systems.next_gpt import SYSTEM

COUNTS = {"num_gen_img_tokens": 2, "num_gen_video_tokens": 3, "num_gen_audio_tokens": 2, "num_clip_tokens": 4}
LAST = ("<Img>", "</Img>", "[IMG0]", "[IMG1]", "[VID0]", "[VID1]", "[VID2]", "[AUD0]", "[AUD1]")


def batch() -> Tensors:
    """Two rows with a picture each, whose answers ask for pictures, a video and a sound."""
    _, tensors = read("next_gpt")
    vision = randomise.values("vision", (2, 3, 224, 224))
    return {**{name: tensors[f"in.{name}"] for name in ("input_ids", "attention_mask")}, "vision": vision}


def rows() -> list[tuple[int, Tensors]]:
    """Each row of the batch without padding, with its own picture."""
    given = batch()
    mask = given["attention_mask"].bool()
    return [(row, {"input_ids": given["input_ids"][row][mask[row]][None], "vision": given["vision"][row : row + 1]})
            for row in range(2)]  # fmt: skip


def conditions_error(folder: Path) -> tuple[float, dict[str, list[int]]]:
    """Largest error of the conditions of all signals against the official projectors, and their shapes."""
    case = fixture_case("", "next_gpt")
    case.make(folder)
    with torch.no_grad():
        found = pm.load(folder, system="next-gpt").module.conditions(**batch())
    _, tensors = read("next_gpt")
    wanted = {name.removeprefix("out.conditions."): x for name, x in tensors.items() if name.startswith("out.cond")}
    if set(found) != set(wanted):
        return float("inf"), {}
    error = max(float((found[name] - wanted[name]).abs().max()) for name in wanted)
    return error, {name: list(x.shape) for name, x in found.items()}


def tiny() -> SignalTokenLM:
    torch.manual_seed(0)
    return SYSTEM.formats[0].model_spec(imagebind_lm.config("next-gpt", **COUNTS)).build()  # type: ignore[return-value]


def encode() -> TrainingCheck:
    """Real pictures and the letters of their names."""
    return imagebind_lm.caption_check(tiny(), [1, -1, 2], steps=20)


def decode() -> TrainingCheck:
    """Names, then the signal of pictures; the condition comes near a vector per picture that stands for what a frozen
    text encoder makes of its name."""
    model, count = tiny(), 8
    targets = randomise.values("what the text encoder says", (count, 4, 768))

    return imagebind_lm.caption_check(
        model,
        [1, -1, 2],
        suffix=model.signals["image"],
        more=lambda chosen: {"signal_targets": {"image": targets[chosen]}},
        count=count,
        lr=1e-3,
        steps=6,
    )


def draw_one(folder: Path) -> tuple[str, list[Any]]:
    """A tiny checkpoint, trained to answer a real picture with words and a signal, is asked about it by `draw`:
    what it says, and the pictures that a tiny Stable Diffusion makes of the signal."""
    model_spec = imagebind_lm.write_tiny_folder(folder, SYSTEM, LAST, **COUNTS)
    seen = pm.image(real.pictures()[0][0])
    question = Message(role="user", parts=(seen, pm.text("Another one?")))
    answer = Message(role="assistant", parts=(pm.text("Here: "), seen))
    train_on_conversations(pm.load(folder), [[question, answer]], writer(folder, model_spec), steps=60)
    telling = {"num_inference_steps": 2, "negative_prompt_embeds": torch.zeros(1, 4, 768)}
    reply = pm.load(folder).draw([question], pipelines={"image": tiny_diffusion(768)}, drawing=telling, max_tokens=20)
    return reply.text, [picture for made in reply.media["image"] for picture in made]


def headline() -> HeadlineResult:
    """Signal tokens of an answer become conditions of the three generators, as the official code makes them, and the
    signal at the end of a conversation becomes a picture."""
    with tempfile.TemporaryDirectory() as directory:
        error, shapes = conditions_error(Path(directory))
    made = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    said = f"conditions of {made} differ from the official ones by {error:.1e}"
    if find_spec("diffusers") is None:
        why = 'nothing was drawn: diffusers is not installed (pip install ".[generate]")'
        return HeadlineResult(ok=None if error <= TOLERANCE else False, evidence=f"{said}; {why}")
    with tempfile.TemporaryDirectory() as directory:
        text, pictures = draw_one(Path(directory))
    sizes = [picture.size for picture in pictures]
    ok = error <= TOLERANCE and text.strip() == "Here:" and sizes == [(16, 16)]
    return HeadlineResult(
        ok=ok, evidence=f"{said}; an answer {text!r} with its signal is drawn by a pipeline as {sizes} pixels"
    )


EVIDENCE = Evidence(
    oracle=fixture_source("next_gpt"),
    cases=(
        fixture_case("two rows, a picture each, signals in the answers", "next_gpt", alone=rows()),
        fixture_case("two pictures, a sound and a video at placeholders of their own, generated", "next_gpt_senses"),
    ),
    published=tuple(packed_size("next_gpt_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"encode": encode, "decode": decode, "instruct": decode},
    headline=headline,
)
