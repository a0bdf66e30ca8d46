"""A small vocabulary of LLaMA's kind: sentencepiece BPE with bytes for what is unknown, as a tokenizer.json has it."""

import json
from functools import lru_cache
from pathlib import Path

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPACE = "\u2581"
CORPUS = (
    "USER: What is it? ASSISTANT: A cat. USER: And what is that? ASSISTANT: A dog, near the house.",
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful answers.",
    "Question: how many cats are there? Answer: two cats and one dog ### Human: why? ### Assistant: I do not know.",
    "[INST] <<SYS>> You are helpful. <</SYS>> What is it? [/INST] It is a picture of a cat.",
    "Below is an instruction that describes a task. ### Instruction: Write a response. ### Response:",
)
SPECIALS = ("<unk>", "<s>", "</s>")


@lru_cache
def _vocabulary() -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """Ids and merges: LLaMA's three special tokens, the 256 bytes, then the pieces of CORPUS."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    trained.train_from_iterator(CORPUS * 4, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    names = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {name: index for index, name in enumerate(names)}, tuple(map(tuple, model["merges"]))


def llama_pipeline(space: str = "every", specials: tuple[str | AddedToken, ...] = (), begin: str = "<s>") -> Tokenizer:
    """space: "every" part between special tokens gets one in front (LLaMA's own file), or the "first" one alone."""
    vocabulary, merges = _vocabulary()
    model = models.BPE(vocab=vocabulary, merges=list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    pipeline = Tokenizer(model)
    if space == "every":
        pipeline.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    else:
        pipeline.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    pipeline.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
                                          decoders.Strip(" ", 1, 0)])  # fmt: skip
    named = [each if isinstance(each, AddedToken) else AddedToken(each, normalized=False, special=True)
             for each in (*SPECIALS, *specials)]  # fmt: skip
    pipeline.add_special_tokens(named)
    if begin:
        pipeline.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, pipeline.token_to_id(begin))]
        )
    return pipeline


def write_llama(folder: Path, space: str = "every", specials: tuple[str, ...] = (), **settings: str) -> int:
    """tokenizer.json and tokenizer_config.json of such a vocabulary; returns its size."""
    pipeline = llama_pipeline(space, specials)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **settings}
    transformers.PreTrainedTokenizerFast(tokenizer_object=pipeline, **names).save_pretrained(folder)
    return pipeline.get_vocab_size()
