"""Packed rows give the numbers of their conversations alone, for every kind of fusion, and learn the same."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.check.evidence import blip_2, llava_1_5, vit
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.packing import joined, pack
from polymodal.data.processor import Encoded
from polymodal.errors import ConfigError, PromptError
from tiny_folders import FOLDERS, tiny

ONE_PICTURE = {"cogvlm", "cogagent", "cogcom", "viscpm"}  # take one picture a question or conversation


@lru_cache
def picture(seed: int) -> Any:
    return pm.image(np.random.default_rng(seed).integers(0, 255, (60 + 9 * seed, 70, 3), dtype=np.uint8))


def conversation(question: tuple[Any, ...], answer: str) -> list[Message]:
    said = tuple(part if not isinstance(part, str) else Text(part) for part in question)
    return [Message(role="user", parts=said), Message(role="assistant", parts=(Text(answer),))]


def conversations(name: str) -> list[list[Message]]:
    """Pictures at the beginning, behind text, several, none; a text alone follows a picture in a packed row."""
    talks = [
        conversation((picture(0), "what?"), "a cat"),
        conversation(("only words here",), "no picture"),
        conversation(("look", picture(1), "and?"), "it is a dog"),
        conversation((picture(2), picture(3), "two"), "b"),
        conversation(("x",), "y"),
    ]
    return talks if name not in ONE_PICTURE else [talk for i, talk in enumerate(talks) if i != 3]


def tensors(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "labels"}


def pieces(packed: Encoded) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Where each conversation of a row begins, and its ids, by which it is known here."""
    start = 0
    for length in packed.segments or (len(packed),):
        yield start, tuple(packed.input_ids[start : start + length])
        start += length


def packed_batch(model: pm.Model, name: str, padding: Any) -> tuple[list[Encoded], list[Encoded], dict[str, Any]]:
    rows = [model.processor.encode(talk) for talk in conversations(name)]
    bins = pack(rows, 2 * max(map(len, rows)) + 8)
    assert len(bins) < len(rows) and any(len(row.segments) > 1 for row in bins)
    return rows, bins, model.processor.collate(bins, padding=padding)


@torch.no_grad()
@pytest.mark.parametrize("name", FOLDERS)
def test_a_packed_row_equals_its_conversations_alone(name: str, tmp_path: Path) -> None:
    model = tiny(name, tmp_path)
    for padding in ("right", "left"):
        rows, bins, batch = packed_batch(model, name, padding)
        alone = {
            tuple(row.input_ids): model.module(**tensors(model.processor.collate([row], padding="right"))).logits[0]
            for row in rows
        }
        found = model.module(**tensors(batch)).logits
        for number, packed in enumerate(bins):
            begin = found.shape[1] - len(packed) if padding == "left" else 0
            for start, ids in pieces(packed):
                mine = found[number, begin + start : begin + start + len(ids)]
                assert (mine - alone.pop(ids)).abs().max() <= 1e-5, f"{name}, row {number} from {start}, {padding}"
        assert not alone


@pytest.mark.parametrize("name", FOLDERS)
def test_packed_rows_learn_what_their_conversations_do(name: str, tmp_path: Path) -> None:
    model = tiny(name, tmp_path)
    rows, _, batch = packed_batch(model, name, "right")
    losses, gradients = [], []
    for each in (batch, model.processor.collate(rows, padding="right")):
        model.module.zero_grad()
        loss = model.module(**each).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({key: x.grad.clone() for key, x in model.module.named_parameters() if x.grad is not None})
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and gradients[0].keys() == gradients[1].keys()
    worst = max(float((gradients[0][key] - gradients[1][key]).abs().max()) for key in gradients[0])
    assert worst <= 1e-4, worst


@torch.no_grad()
def test_what_one_conversation_holds_changes_nothing_in_its_neighbours(tmp_path: Path) -> None:
    """Also where the window is narrower than a conversation and frequencies grow with its length."""
    scaled = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    changes = {"model_type": "mistral", "sliding_window": 7, "num_key_value_heads": 2, "max_position_embeddings": 16}
    text = {**llava_1_5.small(259, 2)["text_config"], **changes, "rope_parameters": scaled}
    model = tiny("llava-1.5", tmp_path, text_config=text)
    long, short = (model.processor.encode(talk) for talk in (conversation(("a" * 40,), "b"), conversation(("c",), "d")))
    whole = model.processor.collate([joined([long, short])], padding="right")
    found = model.module(**tensors(whole)).logits[0]
    for row, mine in ((long, found[: len(long)]), (short, found[len(long) :])):
        alone = model.module(**tensors(model.processor.collate([row], padding="right"))).logits[0]
        assert (mine - alone).abs().max() <= 1e-5
    given = {"input_ids": whole["input_ids"], "segments": whole["segments"]}
    assert (model.module(**given).logits[0] - found).abs().max() <= 1e-5, "positions follow from the segments"


def test_who_cannot_keep_segments_apart_refuses_them(tmp_path: Path) -> None:
    model = tiny("llava-1.5", tmp_path)
    _, _, batch = packed_batch(model, "llava-1.5", "left")
    with pytest.raises(PromptError, match="segments"):
        model.generate(**tensors(batch), max_new_tokens=2)
    ones = torch.ones(1, 4, dtype=torch.int64)
    encoder_decoder = blip_2.SYSTEM.formats[0].model_spec(blip_2.small(blip_2.SMALL_T5, 259, 2)).build()
    with pytest.raises(PromptError, match="segments: an encoder-decoder takes one sequence per row"):
        encoder_decoder(input_ids=ones, segments=ones, labels=ones)
    with pytest.raises(ConfigError, match="segments"):
        vit.SYSTEM.formats[0].model_spec(vit.tiny(["a", "b"])).build()(
            pixel_values=torch.zeros(1, 3, 32, 32), segments=ones
        )
