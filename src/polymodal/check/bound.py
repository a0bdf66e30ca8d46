"""What the training checks of PandaGPT and NExT-GPT share: a tiny ImageBind and LLaMA that name real pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polymodal.check import real
from polymodal.check.demo import BYTES, byte_tokenizer, write_config, write_weights
from polymodal.check.record import TrainingCheck
from polymodal.check.training import caption_batch, lm_objective, rows

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


def published_folder(folder: Path, system: Any, last: Sequence[str] = (), **more: Any) -> Any:
    """A tiny folder in the published format with a tokenizer of bytes, fresh weights in it; returns what it opens as.

    last: tokens behind the bytes, the last of the vocabulary.
    """
    names = {"<s>": 0, "</s>": 1} | {name: BYTES + 2 + index for index, name in enumerate(last)}
    size = byte_tokenizer(folder, names, bos="<s>", eos="</s>")
    wide = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": size}
    given = config(system.id, **more) | {"llama": LLAMA | wide}
    write_config(folder, config=given)
    torch.manual_seed(0)
    model_spec = system.formats[0].model_spec(given)
    write_weights(folder, model_spec.build(), model_spec.keys[0])
    return model_spec


def practised(model: Any, talks: Sequence[Any], folder: Path, model_spec: Any, steps: int = 60) -> None:
    """Train a loaded folder on whole conversations through its own processor and save its weights back."""
    batch, module = model.processor(list(talks)), model.module.train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        lm_objective(module, batch).backward()
        optimiser.step()
    write_weights(folder, module.eval(), model_spec.keys[0])


def naming(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    behind: Sequence[int] = (),
    more: Callable[[list[int]], dict[str, Any]] | None = None,
    count: int = real.COUNT,
    **changes: Any,
) -> TrainingCheck:
    """Pictures through `vision`, their names letter by letter; behind: ids that follow every name and are learned.

    more(rows) -> further entries of the batch.
    """
    pixels, names = real.pixels(224, count=count), real.captions(count)

    def batches(step: int) -> dict[str, Any]:
        chosen = rows(step, 8, count)
        made = caption_batch([names[i] for i in chosen], prompt)
        if behind:  # all rows to one length, so that the signal follows the name
            tail = torch.tensor(behind).expand(8, -1)
            made = {"input_ids": torch.cat((made["input_ids"], tail), 1),
                    "attention_mask": torch.cat((made["attention_mask"], torch.ones_like(tail)), 1),
                    "labels": torch.cat((made["labels"], tail), 1)}  # fmt: skip
        return {**made, "vision": pixels[chosen], **({} if more is None else more(chosen))}

    return TrainingCheck(model=model, batches=batches, **changes)
