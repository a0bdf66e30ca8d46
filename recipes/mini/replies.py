"""Text-only conversations that preserve the language model's abilities while the adapters are trained on images.

    prompts about common words -> SmolLM2's own greedy replies (self-distillation, arXiv 2402.13669) -> replies.jsonl
    example sentences of WordNet, as transcripts: 'The recording says: "..."' -> the sentence    -> recordings.jsonl

No test data is used.
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
REPEAT = (
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
    """Quoted example sentences of the glosses, 4 to 18 words, capitalised and with a final full stop."""
    quotes = []
    for name in ("data.noun", "data.verb", "data.adj"):
        for line in (wordnet / name).read_text("utf-8").splitlines():
            quotes += re.findall(r'"([^"]+)"', line.partition("|")[2])
    kept = {s.strip() for s in quotes if 4 <= len(s.split()) <= 18 and re.fullmatch(r"[A-Za-z ,'?!-]+", s.strip())}
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
    recordings = [{"said": line, "ask": rng.choice(REPEAT)} for line in lines[:6000]]
    (args.data / "recordings.jsonl").write_text("".join(json.dumps(recording) + "\n" for recording in recordings))
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
            replies = generate(lm, batch, SamplingOptions(max_tokens=48), DecodingConstraints(tokenizer=tokenizer))
            for ask, reply in zip(part, replies, strict=True):
                complete = reply.finish_reason == "stop"
                out.write(json.dumps({"ask": ask, "reply": reply.text, "complete": complete}) + "\n")
            print(f"{start + len(part)}/{len(asks)}", flush=True)


if __name__ == "__main__":
    main()
