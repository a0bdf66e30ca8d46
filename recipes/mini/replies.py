"""Text-only conversations that keep the language model what it was while adapters learn to see.

    prompts about common words -> SmolLM2's own greedy replies (self-distillation, arXiv 2402.13669) -> replies.jsonl
    example sentences of WordNet, as transcripts: 'The recording says: "..."' -> what was said   -> recordings.jsonl

Both are text only; no test data is involved.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

import torch

from polymodal.backbones.llama import CONFIGS, gguf_keys
from polymodal.data.processor import Processor
from polymodal.data.template import SMOLLM2
from polymodal.data.tokenizer import Tokenizer
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.weights.load import load_into
from polymodal.weights.read import read_gguf

ASKS = (
    "What is {}?",
    "Write one sentence about {}.",
    "Explain {} to a child.",
    "Where would you find {}?",
    "Tell me a fact about {}.",
    "Give me three words that go with {}.",
    "What is {} used for?",
    "Who needs {}?",
)
OPEN = (
    "What is the capital of France?",
    "Who are you?",
    "Hello!",
    "What can you do?",
    "Tell me a joke.",
    "How many days are in a week?",
    "Write a short poem about the sea.",
    "What is 7 plus 5?",
    "Thank you!",
    "How do I boil an egg?",
    "Name three planets.",
    "Translate 'good morning' to French.",
    "Why is the sky blue?",
)
HEARD = (
    "What is said in the recording?",
    "What does the speaker say?",
    "What did you hear?",
    "Repeat what was said.",
    "What does the person say?",
    "What is being said?",
)


def backbone(path: Path) -> tuple[torch.nn.Module, Tokenizer]:
    """SmolLM2-135M-Instruct and its tokenizer from the published file."""
    file = read_gguf(path)
    config = CONFIGS["smollm2-135m"]
    model = config.build()
    load_into(model, file, gguf_keys(config), dtype=torch.float32)
    return model.eval(), Tokenizer.from_gguf(file.metadata)


def sentences(wordnet: Path) -> list[str]:
    """Quoted example sentences of the glosses, 4 to 18 words, with a capital and an end."""
    found = []
    for name in ("data.noun", "data.verb", "data.adj"):
        for line in (wordnet / name).read_text("utf-8").splitlines():
            found += re.findall(r'"([^"]+)"', line.partition("|")[2])
    kept = {s.strip() for s in found if 4 <= len(s.split()) <= 18 and re.fullmatch(r"[A-Za-z ,'?!-]+", s.strip())}
    return sorted(s[0].upper() + s[1:] + ("" if s[-1] in "?!" else ".") for s in kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = random.Random(0)
    lines = sentences(args.wordnet)
    rng.shuffle(lines)
    heard = [{"said": said, "ask": rng.choice(HEARD)} for said in lines[:6000]]
    (args.data / "recordings.jsonl").write_text("".join(json.dumps(h) + "\n" for h in heard))
    model, tokenizer = backbone(args.language_model)
    lm = MultimodalLM({}, {}, model, {})
    processor = Processor(tokenizer=tokenizer, template=SMOLLM2)
    pictures = [json.loads(line) for line in (args.data / "pictures.jsonl").open()]
    things = sorted({p["name"] for p in pictures if p["split"] == "train" and " " in p["name"]})
    asks = [*OPEN, *(rng.choice(ASKS).format(thing) for thing in rng.sample(things, args.count - len(OPEN)))]
    with (args.data / "replies.jsonl").open("w") as out:
        for start in range(0, len(asks), 16):
            part = asks[start : start + 16]
            batch = processor([[{"role": "user", "content": ask}] for ask in part], generate=True)
            found = generate(lm, batch, SamplingOptions(max_tokens=48), DecodingConstraints(tokenizer=tokenizer))
            for ask, reply in zip(part, found, strict=True):
                done = reply.finish_reason == "stop"
                out.write(json.dumps({"ask": ask, "reply": reply.text, "complete": done}) + "\n")
            print(f"{start + len(part)}/{len(asks)}", flush=True)


if __name__ == "__main__":
    main()
