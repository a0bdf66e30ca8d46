"""Video-ChatGPT against transformers' CLIP and LLaMA with the official pooling written out, joined as its code does.

For each video: hidden_states[-2] of its frames without the class token; the mean over patches of every frame, zeros up
to 100; the mean over frames of every patch; both projected, in place of the run of <vid_patch>.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from polymodal.check import library, randomise, real
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat
from polymodal.check.evidence.llava import TEXT, VISION, Composite, linear_names, size, small
from polymodal.check.film import film, zoomed
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.data.media import Video
from polymodal.systems.video_chatgpt import SYSTEM
from polymodal.systems.video_chatgpt.checkpoint import CLASS, TRAINED

NAMED: dict[str, Any] = {"model_type": "VideoChatGPT", "architectures": [CLASS]}
COUNTS = (2, 5, 1)
LONGEST = 100


class VideoComposite(Composite):
    """`Composite` over videos: frames [sum of F, 3, side, side], pooled."""

    def pooled(self, frames: Tensor) -> Tensor:
        seen = library.layer(self.tower, self.layer, frames)[:, 1:]
        over_patches = torch.zeros(LONGEST, seen.shape[-1])
        over_patches[: len(seen)] = seen.mean(1)
        return self.connector(torch.cat((over_patches, seen.mean(0))))

    def features(self, pixels: Tensor) -> Tensor:
        return torch.stack([self.pooled(frames) for frames in pixels.split(COUNTS)])


def case(name: str, *, beside: bool = False, vision: Mapping[str, Any] | None = None, **text: Any) -> Case:
    """A checkpoint of test size; beside: the published file of what was trained, in a folder of LLaVA's."""
    seen, read = {**VISION, **(vision or {})}, {**TEXT, **text}

    def make(folder: Path) -> Expected:
        with library.quiet() as transformers, torch.no_grad():
            oracle = VideoComposite(transformers, 1, read, seen, -2)
            randomise.fill(oracle)
            whole, _ = oracle.on_disk(linear=True)
            library.saved(oracle.tower, folder / "clip")
            named, words = (NAMED, read["vocab_size"]) if not beside else ({}, read["vocab_size"] - 3)
            call = {}
            if beside:
                whole, call = _as_published(oracle, whole, words, folder), {"system": "video-chatgpt"}
            save_file({key: x.contiguous() for key, x in whole.items()}, folder / "model.safetensors")
            config = {**read, "vocab_size": words, "model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"],
                      **named, "mm_vision_tower": str(folder / "clip"), "mm_vision_select_layer": -2}  # fmt: skip
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            return _expected(oracle, read["vocab_size"] - 3, seen, call)

    return Case(name=name, make=make, needs="transformers")


def _as_published(oracle: Any, whole: dict[str, Tensor], words: int, folder: Path) -> dict[str, Tensor]:
    """LLaVA's tensors; what replaces them goes into a file of its own, and the head's last rows into the oracle."""
    trained = {name: x for name, x in whole.items() if "mm_projector" in name or "embed_tokens" in name}
    torch.save(trained, folder / TRAINED[0])
    head = library.part(oracle.text, "lm_head").weight
    head[words:] = head[:words].mean(0)
    return {name: x[:words] if x.shape[0] == words + 3 else x * 0.5 if name in trained else x
            for name, x in whole.items()}  # fmt: skip


def _expected(oracle: Any, mark: int, seen: Mapping[str, Any], call: Mapping[str, Any]) -> Expected:
    """Two rows padded on the left: one video between texts; two videos, the last at the end."""
    words = randomise.ids("words", (24,), 3, 90).tolist()
    tokens = LONGEST + (seen["image_size"] // seen["patch_size"]) ** 2
    shown = [mark + 1, *[mark] * tokens, mark + 2]
    rows = [words[:5] + shown + words[5:9], words[9:12] + shown + words[12:19] + shown]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    frames = randomise.values("frames", (sum(COUNTS), 3, seen["image_size"], seen["image_size"]))
    prompt = {"inputs_embeds": oracle.embeds(ids, frames, (mark,)), "attention_mask": mask}
    alone = [
        (row, {"input_ids": ids[row][mask[row].bool()][None], "video_values": own, "frame_counts": counts})
        for row, own, counts in ((0, frames[:2], COUNTS[:1]), (1, frames[2:], COUNTS[1:]))
    ]
    new = library.greedy(oracle.text, prompt, {})
    return Expected(
        inputs={"input_ids": ids, "attention_mask": mask, "video_values": frames, "frame_counts": COUNTS},
        logits=library.logits(oracle.text, prompt),
        features={"video": oracle.features(frames)},
        generated=torch.cat((ids, new), 1), alone=alone, call=call,
    )  # fmt: skip


def training_check() -> TrainingCheck:
    """Films of a picture that turns upside down, and its name letter by letter."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        model = SYSTEM.formats[0].model_spec(small(40, Path(directory), **NAMED)).build()
    pixels = real.pixels(56)

    def films(rows: list[int]) -> dict[str, Any]:
        frames = torch.stack((pixels[rows], pixels[rows].flip(2)), 1).flatten(0, 1)
        return {"pixel_values": None, "video_values": frames, "frame_counts": (2,) * len(rows)}

    return caption_check(model, [38, *[37] * (LONGEST + 16), 39], side=56, more=films)


def headline() -> HeadlineResult:
    """A tiny Video-ChatGPT in the official layout watches eight films of real pictures and is asked about each."""
    torch.manual_seed(0)
    samples = [(Video(film(zoomed(picture))), name) for picture, name in real.pictures()[:8]]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
        config = small(size + 3, folder / "clip", **NAMED)
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=80, samples=samples,
                                     generation_config={"eos_token_id": 2})  # fmt: skip
    return HeadlineResult(
        ok=right == 8,
        evidence=f"tiny weights trained on 8 films of pictures that come nearer: chat names what {right} of them show "
        "(published weights were not at hand)",
    )


EVIDENCE = Evidence(
    oracle="transformers CLIPVisionModel and LlamaForCausalLM, joined as the official code joins them",
    cases=(
        case("whole checkpoint"),
        case("the published file in LLaVA's folder, odd widths", beside=True, num_hidden_layers=1, hidden_size=24,
             intermediate_size=54, num_key_value_heads=1,
             vision={"patch_size": 14, "hidden_size": 36, "intermediate_size": 50, "image_size": 42}),
    ),
    published=(size(SYSTEM.variants[0], linear_names),),
    training_checks={"instruct": training_check},
    headline=headline,
)  # fmt: skip
