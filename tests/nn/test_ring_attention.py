"""Attention in blocks and around a ring of two processes is plain causal attention, forward and backward."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ring_sample import decoder, sample

from polymodal.errors import ConfigError
from polymodal.nn.mask import MaskSpec
from polymodal.nn.ring_attention import RingMask, ring_attention

HERE = Path(__file__).parent


def run(mask: MaskSpec) -> dict[str, torch.Tensor]:
    model, (embeds, positions, _) = decoder(), sample()
    embeds.requires_grad_(True)
    hidden = model(embeds, positions, mask)
    hidden.square().sum().backward()
    gradients = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
    return {"hidden": hidden.detach(), "inputs": embeds.grad, **gradients}


@pytest.mark.parametrize("block", [1, 5, 7, 24, 100])
def test_blocks_in_one_process_give_plain_attention(block: int) -> None:
    segments = sample()[2]
    wanted, found = run(MaskSpec(segments=segments)), run(RingMask(block=block, segments=segments))
    assert set(wanted) == set(found) and len(wanted) > 10
    for name, value in wanted.items():
        assert float((found[name] - value).abs().max()) <= 1e-4 * max(1.0, float(value.abs().max())), name


def test_two_processes_of_a_ring_give_plain_attention(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    command = [sys.executable, str(HERE / "ring_run.py")]
    started = [
        subprocess.Popen([*command, str(rank), "2", port, str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [each.communicate(timeout=100)[1] for each in started]
    assert all(each.returncode == 0 for each in started), "\n".join(errors)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    wanted = run(MaskSpec(segments=sample()[2]))
    for name, value in wanted.items():
        own = name in ("hidden", "inputs")  # of this process's tokens; gradients of weights add up
        found = torch.cat((first[name], second[name]), 1) if own else first[name] + second[name]
        assert float((found - value).abs().max()) <= 1e-4 * max(1.0, float(value.abs().max())), name


def test_a_row_without_segments_and_with_a_scale_is_causal() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 17, 8)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
    assert torch.allclose(ring_attention(q, k, v, scale=0.3, block=4), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (RingMask(window=3), "expected causal attention within segments"),
        (RingMask(attention_mask=torch.ones(2, 24)), "a segment of its own instead of an attention_mask"),
        (RingMask(block=0), "block: expected 1 or more keys, found 0"),
    ],
)
def test_what_blocks_do_not_know_is_refused(mask: RingMask, words: str) -> None:
    embeds, positions, _ = sample()
    with pytest.raises(ConfigError, match=words):
        decoder()(embeds, positions, mask)
