"""A picture and its question beside `transformers` on the same LLaVA-like folder, and loading that folder.

    the peer's decoder + CLIP ViT-B/16 -> one folder -> both libraries -> seconds to the first token, which is compared

Both get pixels in memory and make the encoder's input of them.  The second turn is a question behind an answer: we have
the picture's features and the keys of the first turn, and it is measured beside our own reading of the whole talk and
that of `transformers`, whose `generate` keeps nothing from one call to the next.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import polymodal as pm
from polymodal.check import library
from polymodal.check.llava_peer import is_fitting, load_llava, write_llava
from polymodal.cli.output import human_bytes
from polymodal.cli.speed.rounds import Measure, Near
from polymodal.data.messages import conversation
from polymodal.engine.engine import Engine
from polymodal.engine.request import EngineLimits, Request
from polymodal.errors import StorageError
from polymodal.generation.sampling import SamplingOptions

Talk = list[dict[str, Any]]
VISION_BYTES = 4 * 10**8
TOLERANCE = 2e-3
"""Between logits of two libraries that round float32 in other orders."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One folder in both libraries.  prepare: the picture processor of `transformers`."""

    folder: Path
    theirs: Any
    prepare: Callable[..., Any]
    engine: Engine
    picture: Any

    @property
    def turns(self) -> tuple[Talk, Talk]:
        """A question about a picture, and a second one behind an answer."""
        first = {"role": "user", "content": [pm.image(self.picture), "What is in the picture?"]}
        more = [{"role": "assistant", "content": "A house."}, {"role": "user", "content": "What else?"}]
        return [first], [first, *more]


@contextmanager
def pair_of(peer: Any, picture: Any, vision: dict[str, int] | None = None) -> Iterator[Pair | None]:
    """peer: the causal language model of `transformers`; None, and for others than LLaMAs: there is no pair.
    picture: a PIL image.  vision: other sizes than ViT-B/16's.  Raises StorageError without room for the folder."""
    if peer is None or not is_fitting(peer):
        yield None
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        need = sum(each.nbytes for each in peer.parameters()) + VISION_BYTES
        if shutil.disk_usage(folder).free < need:
            raise StorageError(
                f"bench writes a folder of {human_bytes(need)} for transformers and needs room in {folder.parent}: set "
                "TMPDIR to another place, or leave it out with --no-peer"
            )
        write_llava(folder, peer, vision)
        with library.quiet() as transformers:
            prepare = transformers.CLIPImageProcessorPil.from_pretrained(folder)
        ours = pm.load(folder, device="cpu")
        engine = Engine(ours.module, ours.processor, limits=EngineLimits(rows=1))
        engine.constraints = replace(engine.constraints, eos=frozenset())
        yield Pair(folder=folder, theirs=load_llava(folder), prepare=prepare, engine=engine, picture=picture)


def measures(pair: Pair) -> list[Measure]:
    """First token cold and in the second turn, and loading."""
    first, both = pair.turns
    return [
        Measure(name="LLaVA-like, first token, new picture", unit="s", more=False, sides={
            "polymodal": lambda: cold(pair, first),
            "transformers": lambda: theirs(pair, first),
        }, aims={"transformers": 1.5}),
        Measure(name="LLaVA-like, first token, second turn", unit="s", more=False, sides={
            "polymodal": lambda: warm(pair, first, both),
            "cold": lambda: cold(pair, both),
            "transformers": lambda: theirs(pair, both),
        }, aims={"cold": 1 / 0.3}),
        Measure(name="LLaVA-like, load of the folder", unit="s", more=False, sides={
            "polymodal": lambda: our_load(pair),
            "transformers": lambda: their_load(pair),
        }, aims={"transformers": 0.8}),
    ]  # fmt: skip


def cold(pair: Pair, talk: Talk) -> tuple[float, int]:
    """Seconds from pixels to the first token with nothing kept, and the token."""
    pair.engine.clear_caches()
    return asked(pair.engine, talk)


def warm(pair: Pair, first: Talk, both: Talk) -> tuple[float, int]:
    """The same of the second turn, behind the first."""
    pair.engine.clear_caches()
    asked(pair.engine, first)
    return asked(pair.engine, both)


def asked(engine: Engine, talk: Talk) -> tuple[float, int]:
    """Seconds from a conversation to the first token of its answer, and the token."""
    start = time.perf_counter()
    encoded = engine.encode(conversation(talk))
    ((answer,),) = engine.run([Request(encoded=encoded, options=SamplingOptions(max_tokens=1))])
    return time.perf_counter() - start, answer.ids[0]


@torch.inference_mode()
def theirs(pair: Pair, talk: Talk) -> tuple[float, int]:
    """As `cold`; making ids of words is not in its time."""
    ids = torch.tensor([pair.engine.encode(conversation(talk)).input_ids])
    start = time.perf_counter()
    pixels = pair.prepare(pair.picture, return_tensors="pt")["pixel_values"]
    out = pair.theirs(input_ids=ids, pixel_values=pixels, use_cache=True, logits_to_keep=1)
    token = int(library.output(out, "logits")[0, -1].argmax())
    return time.perf_counter() - start, token


def our_load(pair: Pair) -> tuple[float, Near]:
    """Seconds to load the folder once more, its files being in the page cache, and the logits of eight ids.

    Both libraries map their files and read them only when they compute.
    """
    start = time.perf_counter()
    model = pm.load(pair.folder, device="cpu")
    seconds = time.perf_counter() - start
    return seconds, Near(model.logits(input_ids=_few_ids())[:, -1], TOLERANCE)


@torch.inference_mode()
def their_load(pair: Pair) -> tuple[float, Near]:
    """As `our_load`."""
    start = time.perf_counter()
    model = load_llava(pair.folder)
    seconds = time.perf_counter() - start
    return seconds, Near(library.output(model(input_ids=_few_ids()), "logits")[:, -1], TOLERANCE)


def _few_ids() -> torch.Tensor:
    return torch.arange(10, 18)[None]
