"""What the tests of tokenizers share: a small text to learn from, sentences, and vocabulary files of every kind.

`python tests/tokenizer_samples.py` writes tests/fixtures/tokenizers: two sentencepiece models trained on `TEXT`
with sentencepiece 0.2.3, and the ids that the sentencepiece library gives for `SENTENCES` with each.
"""

import base64
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Pipeline

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "tokenizers"

TEXT = """\
A picture is worth a thousand words, and the words that we say of a picture are worth a little less.
The cat is on the red sofa; the dog sleeps under the table, and nobody in the house is awake.
What is in this picture? There are two birds, three trees and a house with a green door.
How many people can you see? I can see four: two women, a man and a child who is holding a balloon.
It's raining in the picture, isn't it? They've all got umbrellas, so I'd say that it's raining.
Describe the image in detail. The image shows a street with cars, a bus, and people who are walking.
Is the answer yes or no? Answer with a single word. The letters on the sign read STOP.
In 2024 there were 1234567 pictures; 3.14 of them (or 99%) were never looked at: that is a lot.
Das Bild zeigt einen Hund und eine Katze; über ihnen hängt eine grüne Lampe. Größe: 10 × 20.
Où est le café ? Le garçon mange une crème brûlée près de la fenêtre, à côté du château.
На картинке кошка и собака. Сколько людей на этой картинке? Их двое.
图片里有一只猫和一只狗。请描述这张图片。北京是中国的首都。
def answer(question, image=None):
    return model.chat(question, image)  # a comment
Sequences of words are encoded as ids, ids are embedded as vectors, and vectors are decoded as words again.
The user asks, the assistant answers; the assistant does not ask, and the user does not answer.
"""
SENTENCES = (
    "", "a", " ", "  ", "\n", "\n\n\n", "What is in this picture?", "  leading and  inner   spaces  ",
    "tabs\tand\nnew\r\nlines\n", "It's 1234567 o'clock, they've 3.14 of them.", "Ünïcödé — naïve café, 北京 и Москва",
    "🙂👩‍👩‍👧 emoji 🇩🇪", "ﬁ Å ① ㌀ ｆｕｌｌ",
    "e\u0301 and \u0301", "\u00a0no\u2003break\u3000space\u200bzero\ufeffmark",
    "\x00\x01\x7f\x1b[0m control", "<s>hello</s> world", "a</s>b", "<unk>", "▁already ▁▁", "x▁y", "<|endoftext|> end",
    "<|im_start|>user\nHi<|im_end|>", "[CLS] a [SEP][MASK]", "<image>\nWhat?", "<extra_id_0> and <extra_id_99>",
    "def f(x):\n    return x ** 2  # code", "aaaaaaaaaaaaaaaa!!!!!!??", "𝔘𝔫𝔦 𐍈 \U0010ffff", "<0x41> <0x0A>",
    "مرحبا בעולם हिन्दी ไทย", "ẞ ß İ ı UPPER lower", "<|startoftext|>x", "end </w> w</w>", "<img>pic</img> <box>",
    "don't. won't ! ?", "a,b;c:d", "http://example.org/?q=1&r=%20", "The cat is on the red sofa.", "图片里有一只猫。",
)  # fmt: skip
SPECIALS = ("<s>", "</s>", "<unk>", "<image>", "<|endoftext|>", "<|im_start|>", "[SEP]", "<extra_id_7>", "<img>", "▁")

# ---- sentencepiece ----

LLAMA = {"model_type": "bpe", "vocab_size": 600, "byte_fallback": True, "normalization_rule_name": "identity",
         "remove_extra_whitespaces": False, "character_coverage": 0.98}  # fmt: skip
T5 = {"model_type": "unigram", "vocab_size": 400, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
RULES = "FF21\t41\nFF46\t66\nFB01\t66 69\n2460\t31\n00A0\t20\n0009\t20\n000A\t20\n200B\n65 301\tE9\n"


def train(**options: Any) -> bytes:
    """A sentencepiece model of `TEXT`; needs the sentencepiece package."""
    import sentencepiece

    model = io.BytesIO()
    options = {"hard_vocab_limit": False, "minloglevel": 2, **options}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXT.splitlines()), model_writer=model, **options)
    return model.getvalue()


def model_file(name: str) -> bytes:
    """A stored model: "llama" (BPE, bytes for unknown characters) or "t5" (Unigram, a few rules of characters)."""
    return (FIXTURES / f"{name}.model").read_bytes()


# ---- byte-level BPE, WordPiece, ranks ----


@lru_cache
def bpe_files(*special: str, suffix: str = "") -> dict[str, str]:
    """vocab.json and merges.txt of a byte-level BPE of `TEXT`, special tokens last; suffix: CLIP's end of a word."""
    bpe = Pipeline(models.BPE(end_of_word_suffix=suffix) if suffix else models.BPE())
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not suffix)
    if suffix:
        words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
        bpe.normalizer = normalizers.Lowercase()
        split = pre_tokenizers.Split(words, behavior="removed", invert=True)
        bpe.pre_tokenizer = pre_tokenizers.Sequence([split, letters])
    else:
        bpe.pre_tokenizer = letters
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    options = {"end_of_word_suffix": suffix} if suffix else {}
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, initial_alphabet=alphabet, **options)
    bpe.train_from_iterator(TEXT.splitlines(), trainer)
    found = json.loads(bpe.to_str())["model"]
    vocabulary = dict(found["vocab"])
    for token in (*(letter + suffix for letter in alphabet if suffix), *special):
        vocabulary.setdefault(token, len(vocabulary))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in found["merges"]]
    merges = ["#version: 0.2", *merges, ""]
    return {"vocab.json": json.dumps(vocabulary, ensure_ascii=False), "merges.txt": "\n".join(merges)}


@lru_cache
def word_pieces() -> str:
    """vocab.txt: BERT's special tokens, letters, and the words of `TEXT`."""
    letters = sorted({letter for letter in TEXT if not letter.isspace()})
    words = sorted({word for word in TEXT.lower().replace(".", " ").replace(",", " ").split() if word.isalpha()})
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return "\n".join(dict.fromkeys([*lines, *words, "##ing", "##s", "é"])) + "\n"


@lru_cache
def ranks() -> dict[bytes, int]:
    """A rank table of bytes and the words of `TEXT` with all that they are built of from the left."""
    table = {bytes([value]): value for value in range(256)}
    for word in sorted({f" {word}" for word in TEXT.split()}, key=lambda word: (len(word), word)):
        for end in range(2, len(word.encode()) + 1):
            table.setdefault(word.encode()[:end], len(table))
    return table


def rank_file() -> str:
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks().items())


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Files by name: bytes and texts as they are, tables as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def main() -> None:
    """Write the fixtures."""
    import tempfile

    import sentencepiece

    FIXTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write(RULES)
        rules.flush()
        made = {"llama": train(**LLAMA), "t5": train(**T5, normalization_rule_tsv=rules.name)}
    ids = {}
    for name, data in made.items():
        (FIXTURES / f"{name}.model").write_bytes(data)
        oracle = sentencepiece.SentencePieceProcessor(model_proto=data)
        ids[name] = {text: oracle.encode(text) for text in SENTENCES}
    (FIXTURES / "ids.json").write_text(json.dumps(ids, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
