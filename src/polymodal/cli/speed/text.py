"""Reading and writing text: the decoder alone, batches, and many requests through the engine.

The same ids and, where the peer is there, the same weights: greedy, no end token, prompts of random ids.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import polymodal as pm
from polymodal.check.llama_cpp import LlamaCpp
from polymodal.cli.speed.rounds import Measure, Run
from polymodal.data.messages import conversation
from polymodal.engine.engine import Engine
from polymodal.engine.request import EngineLimits, Request
from polymodal.generation.decode_state import max_new_tokens, prefill_batch
from polymodal.generation.sampling import SamplingOptions

PROMPT, LONG = 64, 512

Peer = Any
"""A causal language model of `transformers`."""


@dataclass(frozen=True, kw_only=True)
class Others:
    """Who has the same weights: `transformers`, llama.cpp by kind of file, and we ourselves with int8 ones."""

    transformers: Peer | None = None
    llama_cpp: Mapping[str, LlamaCpp] = field(default_factory=dict)
    int8: pm.Model | None = None


def measures(model: pm.Model, others: Others, new: int, read_gb_s: float) -> list[Measure]:
    """Prefill, decoding of one row and of eight, requests at once."""
    module = model.module_for(False)
    # A placeholder would ask for a picture.
    banned = set(module.placeholders_in_vocabulary())
    words = torch.tensor([index for index in range(module.backbone.config.vocab_size) if index not in banned])
    size = sum(each.nbytes for each in _read_each_step(module))

    def ids(rows: int, length: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(rows + length)
        return words[torch.randint(0, len(words), (rows, length), generator=generator)]

    def sides(ours: Callable[..., Any], theirs: Callable[..., Any], *given: Any) -> dict[str, Run]:
        both = {"polymodal": lambda: ours(module, *given)}
        peer = others.transformers
        return both if peer is None else {**both, "transformers": lambda: theirs(peer, *given)}

    def with_llama(both: dict[str, Run], run: Callable[..., Any], *given: Any) -> dict[str, Run]:
        peer = others.llama_cpp.get("F32")
        return both if peer is None else {**both, "llama.cpp F32": lambda: run(peer, *given)}

    limit = read_gb_s * 1e9 / size
    # Generation leaves the last tokens of a context to the answer.
    long = min(LONG, module.backbone.config.max_length // 2)
    read, written = ids(1, long), ids(1, PROMPT)
    reading = with_llama(sides(prefill, their_prefill, read), llama_prefill, read)
    writing = with_llama(sides(decode, their_decode, written, new), llama_decode, written, new)
    found = [
        Measure(name=f"prefill of {long} tokens", unit="tokens/s", sides=reading, aims={"llama.cpp F32": 1.5}),
        Measure(name="decode", unit="tokens/s", sides=writing, limit=limit,
                aims={"transformers": 2.8, "llama.cpp F32": 1.0}),
        Measure(name="decode 8 rows", unit="tokens/s", sides=sides(decode, their_decode, ids(8, PROMPT), new),
                aims={"transformers": 2.0}),
    ]  # fmt: skip
    if others.int8 is not None:
        found.append(_int8(others.int8, others.llama_cpp.get("Q8_0"), written, new, read_gb_s))
    for rows in (1, 16):
        for sampled in (False, True) if rows == 16 else (False,):
            name = f"engine, {rows} {'sampled ' if sampled else ''}request{'s' * (rows > 1)} at once"
            run = engine_run(model, rows, sampled, new)
            found.append(Measure(name=name, unit="tokens/s", sides={"polymodal": run}))
    return found


def _int8(model: pm.Model, peer: LlamaCpp | None, ids: torch.Tensor, new: int, read_gb_s: float) -> Measure:
    """Decoding with weights of eight bits.  Two ways of rounding weights go apart after some tokens, so that the first
    token alone is compared."""
    module = model.module_for(False)

    def ours() -> tuple[float, int]:
        speed, ((first, *_),) = decode(module, ids, new)
        return speed, first

    def theirs(peer: LlamaCpp) -> tuple[float, int]:
        speed, ((first, *_),) = llama_decode(peer, ids, new)
        return speed, first

    sides: dict[str, Run] = {"polymodal": ours}
    if peer is not None:
        sides["llama.cpp Q8_0"] = lambda: theirs(peer)
    limit = read_gb_s * 1e9 / sum(each.nbytes for each in _read_each_step(module))
    return Measure(name="decode, int8 weights", unit="tokens/s", sides=sides, limit=limit,
                   aims={"llama.cpp Q8_0": 1.0})  # fmt: skip


def llama_prefill(peer: LlamaCpp, ids: torch.Tensor) -> tuple[float, list[int]]:
    """As `prefill`."""
    found = peer.run(ids[0].tolist(), 1)
    return found.prefill, found.ids


def llama_decode(peer: LlamaCpp, ids: torch.Tensor, new: int) -> tuple[float, list[list[int]]]:
    """As `decode`."""
    found = peer.run(ids[0].tolist(), new + 1)
    return found.decode, [found.ids]


def _read_each_step(module: Any) -> list[torch.Tensor]:
    """What one decoded token reads: all weights, the table of embeddings only where it is the head, too."""
    backbone = module.backbone
    table = backbone.embed_tokens.weight
    tied = backbone.lm_head is None
    kept = {id(each): each for each in (*backbone.parameters(), *backbone.buffers())}
    return [each for each in kept.values() if tied or each is not table]


@torch.inference_mode()
def prefill(module: Any, ids: torch.Tensor) -> tuple[float, list[int]]:
    """Tokens a second, and the token behind the prompt."""
    start = time.perf_counter()
    state = prefill_batch(module, {"input_ids": ids}, [1] * len(ids))
    first = state.logits.argmax(-1).tolist()
    return ids.numel() / (time.perf_counter() - start), first


@torch.inference_mode()
def their_prefill(peer: Peer, ids: torch.Tensor) -> tuple[float, list[int]]:
    start = time.perf_counter()
    first = peer(ids, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1).tolist()
    return ids.numel() / (time.perf_counter() - start), first


@torch.inference_mode()
def decode(module: Any, ids: torch.Tensor, new: int) -> tuple[float, list[list[int]]]:
    """Tokens a second of all rows together after the prompt, and what they wrote."""
    limits = max_new_tokens(module, [ids.shape[1]] * len(ids), [new + 1] * len(ids))
    state = prefill_batch(module, {"input_ids": ids}, limits)
    chosen = [state.logits.argmax(-1)]
    start = time.perf_counter()
    for _ in range(new):
        state.step(chosen[-1])
        chosen.append(state.logits.argmax(-1))
    return len(ids) * new / (time.perf_counter() - start), torch.stack(chosen, 1).tolist()


@torch.inference_mode()
def their_decode(peer: Peer, ids: torch.Tensor, new: int) -> tuple[float, list[list[int]]]:
    out = peer(ids, use_cache=True, logits_to_keep=1)
    chosen = [out.logits[:, -1].argmax(-1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the name of the cache changes between releases
        start = time.perf_counter()
        for _ in range(new):
            out = peer(chosen[-1][:, None], past_key_values=out.past_key_values, use_cache=True)
            chosen.append(out.logits[:, -1].argmax(-1))
    return len(ids) * new / (time.perf_counter() - start), torch.stack(chosen, 1).tolist()


def engine_run(model: pm.Model, rows: int, sampled: bool, new: int) -> Run:
    """Requests that come all at once -> tokens a second from then on, prompts included, and their answers."""
    module = model.module_for(False)
    processor = model.processor
    engine = Engine(module, processor, limits=EngineLimits(rows=rows, prefix_bytes=0))
    engine.constraints = replace(engine.constraints, eos=frozenset())

    def options(row: int) -> SamplingOptions:
        plain = SamplingOptions(max_tokens=new)
        return replace(plain, temperature=0.8, top_p=0.9, seed=row) if sampled else plain

    def run() -> tuple[float, list[tuple[int, ...]]]:
        talks = [conversation([{"role": "user", "content": f"Tell me {row + 2} things."}]) for row in range(rows)]
        requests = [Request(encoded=engine.encode(talk), options=options(row)) for row, talk in enumerate(talks)]
        start = time.perf_counter()
        found = [answer.ids for (answer,) in engine.run(requests)]
        return sum(map(len, found)) / (time.perf_counter() - start), found

    return run
