"""Names, sizes and prompts of LLaMA-Adapter's official files; see `llama_adapter_v2.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from polymodal.backbones import llama_meta
from polymodal.backbones.decoder import DecoderConfig
from polymodal.data.media import Image, Text
from polymodal.data.messages import Message
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.encoders import clip_vit
from polymodal.errors import PromptError, WeightsError
from polymodal.fusion.prefix import GatedPrefixConfig
from polymodal.fusion.routing import RoutedDeltaConfig
from polymodal.nn.linear import LinearConfig, ProjectionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.systems import CheckpointFiles
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split
from polymodal.weights.merged import Locations, MergedTensors
from polymodal.weights.operations import Reshape

Shapes = Mapping[str, Sequence[int]]
ASKING = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n"
)
TEMPLATE = Template(
    turns={
        # In front of all: even the first token's keys depend on the picture, so nothing is kept when it changes.
        "picture": Turn(after=(Special(name="<s>"), TEXT_START)),
        "user": Turn(before=(Words(text=ASKING),), after=(Words(text="\n\n### Response:"),)),
        "assistant": Turn(after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
    },
)
ENTRY = ("model", "")
CLIP_REST = ("transformer.", "input_resolution", "context_length", "vocab_size")
BLANK = Image(np.zeros((1, 1, 3), dtype=np.uint8))
"""Stands for "no picture": the transform makes zeros of it, as the official data set does."""


@dataclass(frozen=True)
class OrBlank:
    """A transform that knows BLANK."""

    transform: Any

    def __call__(self, image: Image) -> torch.Tensor:
        return torch.zeros(self.transform.shape) if image is BLANK else self.transform(image)


def one_instruction(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The picture, or BLANK, in a turn of its own, then one question.  Raises PromptError for anything else."""
    pictures = [part for message in messages for part in message.media]
    if len(pictures) > 1 or [message.role for message in messages] not in (["user"], ["user", "assistant"]):
        raise PromptError("llama-adapter takes one instruction with at most one picture, and maybe its answer")
    picture = Message(role="picture", parts=tuple(pictures or [BLANK]))
    return (picture, *(replace(message, parts=(Text(message.text),)) for message in messages))


def adapted(config: DecoderConfig, settings: Mapping[str, Any]) -> DecoderConfig:
    """A LLaMA decoder with tuned biases or low-rank paths, and prompts in its last `query_layer` blocks."""
    bias, rank = settings["w_bias"], settings["lora_rank"] if settings["w_lora"] else 0

    def linear(biased: bool) -> ProjectionConfig:
        return RoutedDeltaConfig(rank=rank, kinds=None, bias=biased) if rank else LinearConfig(bias=biased)

    prefix = GatedPrefixConfig(length=settings["query_len"], gain=settings["w_new_gate"])
    first, blocks = config.depth - settings["query_layer"], []
    for i, block in enumerate(config.blocks):
        slots = {"q": linear(bias), "k": linear(False), "v": linear(False), "o": linear(bias)}
        attention = replace(
            block.attention,
            linears=replace(block.attention.linears, **slots),
            prefix=prefix if i >= first else None,
        )
        assert isinstance(block.mlp, GatedMLPConfig)
        blocks.append(replace(block, attention=attention, mlp=replace(block.mlp, linear=linear(bias))))
    return replace(config, blocks=tuple(blocks))


def decoder_keys(config: DecoderConfig, settings: Mapping[str, Any]) -> KeyTable:
    """`llama.*` and `adapter_query` -> the adapted decoder; gates of layers without prompts are never read."""
    heads, layers = config.blocks[0].attention.heads, settings["query_layer"]
    first = config.depth - layers
    rows: list[Row] = [
        split("adapter_query.weight", [f"blocks.{first + i}.attn.prefix.prompt" for i in range(layers)]),
        *(drop(f"llama.layers.{i}.attention.{name}") for i in range(first) for name in ("gate", "new_gate")),
        rename("llama.layers.{}.attention.gate", "blocks.{}.attn.prefix.gate", Reshape((1, heads, 1, 1), (heads,))),
        rename("llama.layers.{}.attention.new_gate", "blocks.{}.attn.prefix.gain", Reshape((1, 1, 1, 1), (1,))),
    ]
    for source, target in llama_meta.NAMES.items():
        group, _, leaf = source.partition(".")
        prefix, order = f"llama.layers.{{}}.{group}.lora_{leaf}", llama_meta.rope_order(config, source)
        rows.append(rename(f"{prefix}_l1.weight", f"blocks.{{}}.{target}.lora_A.weight"))
        rows.append(rename(f"{prefix}_l2.weight", f"blocks.{{}}.{target}.lora_B.weight", *order))
    return KeyTable(tuple(rows)) + llama_meta.meta_keys(config).prefixed("llama.", "")


def vision_keys(key_table: KeyTable = clip_vit.OPENAI_KEYS) -> KeyTable:
    """`clip.visual.*` -> the encoder; what CLIP's deleted text side leaves behind is dropped."""
    leftovers = ("positional_embedding", "text_projection", "logit_scale", "token_embedding.weight", "ln_final.**")
    rest = tuple(drop(f"clip.{name}") for name in leftovers)
    return key_table.prefixed("clip.", "encoders.image.vit.") + KeyTable(rest)


def connector_keys() -> KeyTable:
    """The visual query's names -> QueryBlocks of pre-norm ViT blocks."""
    names = {"clip_proj": "proj", "clip_proj_norm": "norm", "visual_proj": "out_proj", "visual_proj_norm": "out_norm"}
    inner = {"norm1": "attn_norm", "attn.proj": "attn.o_proj", "norm2": "mlp_norm", "mlp.fc1": "mlp.up_proj",
             "mlp.fc2": "mlp.down_proj"}  # fmt: skip
    names |= {f"visual_blocks.{{}}.{source}": f"blocks.{{}}.{target}" for source, target in inner.items()}
    rows: list[Row] = [rename("visual_query.weight", "queries")]
    for leaf in ("weight", "bias"):
        rows += [rename(f"{source}.{leaf}", f"{target}.{leaf}") for source, target in names.items()]
        thirds = [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"]
        rows.append(split(f"visual_blocks.{{}}.attn.qkv.{leaf}", thirds))
    return KeyTable(tuple(rows))


def inferred(shapes: Shapes) -> dict[str, Any] | None:
    """The settings of an official state dict by its shapes; None for another's.

    What shapes do not tell is taken as published: norm_eps 1e-6, 16 heads in the visual blocks, CLIP heads of 64.
    """
    if "adapter_query.weight" not in shapes or "visual_query.weight" not in shapes:
        return None
    attention, feed = "llama.layers.{}.attention", "llama.layers.0.feed_forward.w1"
    lora = shapes.get(f"{attention.format(0)}.lora_wq_l1.weight")
    queries, seen = shapes["visual_query.weight"]
    patch = shapes["clip.visual.conv1.weight"][2]
    side = round((shapes["clip.visual.positional_embedding"][0] - 1) ** 0.5)
    vocab, dim = shapes["llama.tok_embeddings.weight"]
    return {
        "model_type": "llama_adapter_v2", "dim": dim, "n_layers": _count(shapes, attention + ".wq.weight"),
        "n_heads": shapes[f"{attention.format(0)}.gate"][1], "multiple_of": shapes[f"{feed}.weight"][0],
        "norm_eps": 1e-6, "vocab_size": vocab, "max_seq_len": 512, "query_len": queries,
        "query_layer": shapes["adapter_query.weight"][0] // queries, "w_bias": f"{feed}.bias" in shapes,
        "w_lora": lora is not None, "lora_rank": 16 if lora is None else lora[0],
        "w_new_gate": f"{attention.format(0)}.new_gate" in shapes, "v_embed_dim": seen, "v_num_heads": 16,
        "v_depth": _count(shapes, "visual_blocks.{}.norm1.weight"),
        "v_mlp_ratio": shapes["visual_blocks.0.mlp.fc1.weight"][0] / seen,
        "clip": {"embed_dim": shapes["clip.visual.proj"][1], "image_resolution": side * patch,
                 "vision_layers": _count(shapes, "clip.visual.transformer.resblocks.{}.ln_1.weight"),
                 "vision_width": shapes["clip.visual.proj"][0], "vision_patch_size": patch},
    }  # fmt: skip


def gathered(files: CheckpointFiles) -> Mapping[str, torch.Tensor]:
    """One state dict of all parts, or LLaMA's `consolidated.00.pth`, a release's file and a state dict of CLIP, side by
    side beside a config.json; LLaMA's embedding, head and blocks are then found under `llama.`, CLIP's tower under
    `clip.`.  Raises WeightsError for shards of larger models, which do not belong to this one.
    """
    folder = files.folder
    loose = sorted(folder.glob("*.pth")) + sorted(folder.glob("*.pt")) if folder.is_dir() else []
    if len(loose) < 2:
        return weights_in(folder, ENTRY)
    found: Locations = {}
    for path in loose:
        tensors = weights_in(path, ENTRY)
        clip, language = "visual.conv1.weight" in tensors, "tok_embeddings.weight" in tensors
        prefix = "clip." if clip else "llama." if language else ""
        for name in tensors:
            if clip and name.startswith(CLIP_REST):
                continue  # the text side that the official code deletes, and numbers that are no weights
            if prefix + name in found:
                raise WeightsError(f"{path.name}: {name!r} is in another file too; expected one file of each part")
            found[prefix + name] = (tensors, name)
    return MergedTensors.of(found)


def _count(shapes: Shapes, name: str) -> int:
    found = 0
    while name.format(found) in shapes:
        found += 1
    return found
