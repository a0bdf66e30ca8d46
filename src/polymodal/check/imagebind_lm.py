"""Training checks of PandaGPT and NExT-GPT: a tiny ImageBind and LLaMA learn to name real pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polymodal.check import real
from polymodal.check.demo import BYTES, byte_tokenizer, write_config, write_weights
from polymodal.check.record import TrainingCheck
from polymodal.check.training import caption_batch, rows

IMAGEBIND: dict[str, Any] = {
    "kernel_size": (2, 56, 56), "out_embed_dim": 48, "depth_kernel_size": 56, "thermal_kernel_size": 56,
    "audio_kernel_size": 32, "audio_stride": 32, "vision_embed_dim": 48,
} | {f"{name}_embed_dim": 32 for name in ("text", "audio", "depth", "thermal", "imu")} | {
    f"{name}_num_{part}": 1 if part == "blocks" else 4
    for name in ("vision", "text", "audio", "depth", "thermal", "imu") for part in ("blocks", "heads")
}  # fmt: skip
LLAMA: dict[str, Any] = {"model_type": "llama", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "intermediate_size": 96, "vocab_size": 48}  # fmt: skip


def config(model_type: str, **more: Any) -> dict[str, Any]:
    return {"model_type": model_type, "imagebind": IMAGEBIND, "llama": LLAMA, "lora_r": 8, "lora_alpha": 8, **more}


def write_tiny_folder(folder: Path, system: Any, extra_tokens: Sequence[str] = (), **more: Any) -> Any:
    """A tiny checkpoint in the published format with fresh weights and a byte tokenizer; returns its ModelSpec.

    extra_tokens: special tokens after the bytes, at the end of the vocabulary.  more: further settings of the config.
    """
    names = {"<s>": 0, "</s>": 1} | {name: BYTES + 2 + index for index, name in enumerate(extra_tokens)}
    size = byte_tokenizer(folder, names, bos="<s>", eos="</s>")
    wide = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": size}
    settings = config(system.id, **more) | {"llama": LLAMA | wide}
    write_config(folder, config=settings)
    torch.manual_seed(0)
    model_spec = system.formats[0].model_spec(settings)
    write_weights(folder, model_spec.build(), model_spec.keys[0])
    return model_spec


def caption_check(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    suffix: Sequence[int] = (),
    more: Callable[[list[int]], dict[str, Any]] | None = None,
    count: int = real.COUNT,
    **changes: Any,
) -> TrainingCheck:
    """Pictures as `vision`, their names letter by letter as labels; suffix: ids after every name, labels too.

    more(rows) -> further tensors of the batch.
    """
    pixels, names = real.pixels(224, count=count), real.captions(count)

    def batches(step: int) -> dict[str, Any]:
        chosen = rows(step, 8, count)
        made = caption_batch([names[i] for i in chosen], prompt)
        if suffix:  # all rows have one length, so that the signal follows the name
            tail = torch.tensor(suffix).expand(8, -1)
            made = {"input_ids": torch.cat((made["input_ids"], tail), 1),
                    "attention_mask": torch.cat((made["attention_mask"], torch.ones_like(tail)), 1),
                    "labels": torch.cat((made["labels"], tail), 1)}  # fmt: skip
        return {**made, "vision": pixels[chosen], **({} if more is None else more(chosen))}

    return TrainingCheck(model=model, batches=batches, **changes)
