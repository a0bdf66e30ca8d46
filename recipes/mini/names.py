"""The names that `mini` can predict: visible nouns of WordNet, plus the nouns of the training set.

Of WordNet (Debian `wordnet-base`, Princeton licence) only nouns are used: the first sense of a word must belong to a
lexicographer file of visible things (animal, artifact, body, food, object, phenomenon, plant, shape, substance), and
the word must be common: it occurs in the tagged corpora, or is a single token of the language model.  Test images do
not influence the choice, so names that are neither in WordNet nor in the training set cannot be predicted.  With
`--released` the names are those of the released file, so that the connector keeps its size: captions are read a little
better now than when those were chosen, so that 46 names would go and 3 come.

Writes to the data folder names.json (the sorted names) and text.safetensors: unit vectors of all-MiniLM-L6-v2 for
the names [V, 384] and for the caption of each image [P, 384].
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Pipeline
from torch import Tensor

from polymodal.backbones.encoder import BERT_KEYS, MINILM_L6, TextEncoder
from polymodal.data.tokenizer import Tokenizer
from polymodal.systems.mini.components import CONNECTOR, TRAINED
from polymodal.weights.read import read_gguf, read_safetensors

VISIBLE = {
    "05": "animal",
    "06": "artifact",
    "08": "body",
    "13": "food",
    "17": "object",
    "19": "phenomenon",
    "20": "plant",
    "25": "shape",
    "27": "substance",
}
PLAIN = re.compile(r"[a-z]+( [a-z]+)?$")


def wordnet_nouns(folder: Path) -> dict[str, tuple[str, int]]:
    """{noun: (category, corpus count)} of the words whose first sense is visible."""
    kinds = {}
    for line in (folder / "data.noun").read_text("utf-8").splitlines():
        if not line.startswith(" "):
            offset, file, _ = line.split(" ", 2)
            kinds[offset] = file
    counts: dict[str, int] = {}
    for line in (folder / "cntlist.rev").read_text("utf-8").splitlines():
        key, sense, count = line.split()
        word, rest = key.split("%")
        if rest.startswith("1:") and sense == "1":
            counts[word] = int(count)
    nouns = {}
    for line in (folder / "index.noun").read_text("utf-8").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        word, senses = fields[0], int(fields[2])
        first = fields[-senses]
        name = word.replace("_", " ")
        if kinds[first] in VISIBLE and PLAIN.match(name) and len(name) > 2:
            nouns[name] = (VISIBLE[kinds[first]], counts.get(word, 0))
    return nouns


def vocabulary(wordnet: Path, trained: Iterable[str], tokens: Callable[[str], int], limit: int = 4) -> list[str]:
    """The sorted names: common visible nouns and `trained`, each with at most `limit` tokens of the language model."""
    common = {n for n, (_, count) in wordnet_nouns(wordnet).items() if count > 0 or (" " not in n and tokens(n) == 1)}
    return sorted(n for n in common | set(trained) if n and tokens(n) <= limit)


@torch.inference_mode()
def sentences(encoder: TextEncoder, pipeline: Pipeline, texts: list[str], batch: int = 256) -> Tensor:
    """Unit vectors [N, 384] of `texts`; equal texts are encoded once."""
    unique = sorted(set(texts), key=lambda t: (len(t), t))
    vectors: dict[str, Tensor] = {}
    pipeline.enable_padding()
    pipeline.enable_truncation(128)
    for start in range(0, len(unique), batch):
        part = unique[start : start + batch]
        encoded = pipeline.encode_batch(part)
        ids = torch.tensor([e.ids for e in encoded])
        mask = torch.tensor([e.attention_mask for e in encoded])
        vectors.update(zip(part, encoder.sentence(ids, mask), strict=True))
    return torch.stack([vectors[t] for t in texts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with index.noun and data.noun")
    parser.add_argument("--minilm", type=Path, required=True, help="folder with model.fp16.safetensors, tokenizer.json")
    parser.add_argument("--language-model", type=Path, required=True, help="SmolLM2's GGUF file")
    parser.add_argument("--released", action="store_true", help="the names of the released file")
    args = parser.parse_args()
    pictures = [json.loads(line) for line in (args.data / "pictures.jsonl").open()]
    tokenizer = Tokenizer.from_gguf(read_gguf(args.language_model).metadata)
    trained = {noun for p in pictures if p["split"] == "train" for noun in p["nouns"]}
    if args.released:
        names = json.loads(read_safetensors(Path(TRAINED.name)).metadata["names"])[: CONNECTOR.names]
    else:
        names = vocabulary(args.wordnet, trained, lambda name: len(tokenizer.encode(" " + name)))
    encoder = MINILM_L6.build().eval()
    source = read_safetensors(args.minilm / "model.fp16.safetensors")
    encoder.load_state_dict({n: t.float() for n, t in BERT_KEYS.apply(source, encoder)})
    pipeline = Pipeline.from_file(str(args.minilm / "tokenizer.json"))
    vectors = {
        "names": sentences(encoder, pipeline, names),
        "captions": sentences(encoder, pipeline, [p["caption"] or p["nouns"][0] for p in pictures]),
    }
    (args.data / "names.json").write_text(json.dumps(names))
    save_file(vectors, args.data / "text.safetensors")
    print(f"{len(names)} names, {len(trained & {*names})} of them in the training set")


if __name__ == "__main__":
    main()
