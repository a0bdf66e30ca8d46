"""Generation, turns of a conversation, embedding and classes on small random models: speed, and memory held after.

    python benchmarks/generation.py [--size tiny|mid] [--rounds 4]

Seconds are those of the one thread that computes, so that other work on the machine changes them little.  Needs no
weights and no network; run it on two revisions to see what a change costs.  Tokens are the same on both: compare them.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import polymodal as pm
from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig
from polymodal.generation.generate import generate
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.dual_encoder import DualEncoder
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.rope import RopeConfig
from polymodal.pipelines.zero_shot import ZeroShot

# width, heads, depth, vocabulary, new tokens
SIZES = {"tiny": (64, 4, 2, 512, 128), "mid": (576, 9, 12, 49152, 32)}


def language_model(width: int, heads: int, depth: int, vocabulary: int) -> MultimodalLM:
    block = DecoderBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, kv_heads=heads // 3 or 1),
        mlp=GatedMLPConfig(width=width, ffn_width=width * 8 // 3),
    )
    rope = RopeConfig(head_dim=width // heads)
    config = DecoderConfig(vocab_size=vocabulary, width=width, blocks=(block,) * depth, rope=rope, max_length=4096)
    model = MultimodalLM({}, {}, config.build(), {}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model


def seconds(run: Callable[[], object]) -> tuple[float, object]:
    start = time.thread_time()
    found = run()
    return time.thread_time() - start, found


def decoding(size: str, rounds: int) -> None:
    """Tokens a second of all rows together, and a digest of the ids."""
    *shape, new = SIZES[size]
    model = language_model(*shape)
    alike = [SamplingOptions(max_tokens=new, temperature=0.8, top_p=0.9, seed=i) for i in range(8)]
    each = [
        SamplingOptions(max_tokens=new, temperature=0.7 + i / 10, top_k=20 + i, top_p=0.9,
                        repetition_penalty=1.0 + i / 50, seed=i)
        for i in range(8)
    ]  # fmt: skip
    cases = {
        "1 row, greedy": [SamplingOptions(max_tokens=new)],
        "1 row, greedy, logprobs=0": [SamplingOptions(max_tokens=new, logprobs=0)],
        "8 rows, greedy": [SamplingOptions(max_tokens=new)] * 8,
        "8 rows, sampled alike": alike,
        "8 rows, sampled each in its way": each,
        "4 rows of 4 beams": [SamplingOptions(max_tokens=new, beams=4)] * 4,
    }
    for name, options in cases.items():
        ids = torch.randint(0, shape[-1], (len(options), 32), generator=torch.Generator().manual_seed(1))
        found = [seconds(lambda ids=ids, options=options: generate(model, {"input_ids": ids}, options))
                 for _ in range(rounds + 1)][1:]  # fmt: skip
        rows: list = found[0][1]  # type: ignore[assignment]
        count = sum(len(row.ids) for row in rows)
        digest = hashlib.sha256(str([row.ids for row in rows]).encode()).hexdigest()[:8]
        print(f"{name:32} {count / statistics.median(s for s, _ in found):8.1f} tokens/s   ids {digest}")


def conversations(system: str) -> None:
    """Ten turns with a picture each, and what forty conversations at once leave behind."""
    model = pm.load(system)
    turns: list[dict] = []
    for number in range(10):
        picture = pm.image(np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8))
        turns.append({"role": "user", "content": [picture, f"question {number}"]})
        spent, reply = seconds(lambda: model.chat(turns, max_tokens=2))
        turns.append({"role": "assistant", "content": "x"})
    print(f"turn 10 of {sum(reply.tokens.values())} tokens: {spent * 1e3:.1f} ms")  # type: ignore[attr-defined]
    model.clear_caches()
    running = [iter(model.stream(f"{number} " + "word " * 30, max_tokens=64)) for number in range(40)]
    for pieces in running:
        next(pieces, None)
    for pieces in running:
        list(pieces)
    print(f"40 finished conversations hold {model.sessions(model.module).nbytes:,} bytes")


class Tower(nn.Module):
    """[N, T, 64] or ids [N, T] -> [N, 64]"""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(256, 64)
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 256, batch_first=True), 4)

    def joint(self, **values: torch.Tensor) -> torch.Tensor:
        (x,) = values.values()
        states = x.flatten(2).transpose(1, 2)[..., :64] if x.is_floating_point() else self.table(x)
        return self.layers(states).mean(1)


def classes() -> None:
    """Pictures a second, and a classification by words for the first and the second time."""
    model = DualEncoder({"image": Tower(), "text": Tower()}).eval()
    space = ZeroShot(model, lambda image: torch.from_numpy(image.source), lambda text: [ord(c) % 256 for c in text])
    pictures = [pm.image(np.random.default_rng(i).random((64, 8, 8), dtype=np.float32)) for i in range(64)]
    with torch.inference_mode():
        space.embed(pictures)
        print(f"embed: {64 / seconds(lambda: space.embed(pictures))[0]:.0f} pictures/s")
        labels = ["cat", "dog", "a red car", "house", "tree"]
        first, again = (seconds(lambda: space.score(pictures[:1], labels))[0] for _ in range(2))
    print(f"5 labels under {len(space.templates)} prompts: {first * 1e3:.0f} ms, again {again * 1e3:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--system", default="tests/cli/tiny_system.py", help="whose conversations are held")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    decoding(given.size, given.rounds)
    conversations(given.system)
    classes()


if __name__ == "__main__":
    main()
