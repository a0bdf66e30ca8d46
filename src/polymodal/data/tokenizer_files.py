"""A folder of a published checkpoint -> its tokenizer, from whichever vocabulary file it has.

    tokenizer.json                                                          as it is
    tokenizer.model | spiece.model | sentencepiece.bpe.model                sentencepiece (or LLaMA 3's rank file)
    ice_text.model                                                          sentencepiece, ChatGLM's
    vocab.json + merges.txt | vocab.txt, bee.txt | *.tiktoken               byte-level BPE | WordPiece | ranks
      + tokenizer_config.json, special_tokens_map.json, added_tokens.json   which class, which special tokens

Without a tokenizer.json the tokenizer's class says how text is cut; ids are those of AutoTokenizer of transformers on
the same folder.  Code that a folder brings along is never run: the few classes of such code that are known are data
here, all others are refused by name.
Traps: AutoTokenizer leaves the named class alone for some model types (LLaVA's, Mistral's) and reads their
tokenizer.model as sentencepiece does, `PLAIN_MODEL_TYPES`; names of classes end in "Fast" or not without a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Pipeline

from polymodal.data import sentencepiece_pipelines as pieces
from polymodal.data import tiktoken_file, word_files
from polymodal.data.sentencepiece import SentencePieceModel, read_sentencepiece
from polymodal.data.sentencepiece_pipelines import Vocabulary, renamed
from polymodal.data.token_settings import TokenSettings, read_settings
from polymodal.data.tokenizer import Tokenizer, pipeline_of_json
from polymodal.data.tokenizer_parts import check_holes, made_by_library
from polymodal.data.vocabulary_files import MAX_TOKENIZER_JSON, read_bytes, read_table, read_text
from polymodal.errors import ConfigError, WeightsError

JSON, PIECES, MERGES, WORDS, RANKS = "json", "sentencepiece", "byte-level BPE", "WordPiece", "tiktoken"
CPM_BEE = "bee.txt"  # whose it is, its name says by itself
# In the order in which they are looked for.
KINDS = {
    "tokenizer.json": JSON,
    "tokenizer.model": PIECES,
    "spiece.model": PIECES,
    "sentencepiece.bpe.model": PIECES,
    "ice_text.model": PIECES,
    "vocab.json": MERGES,
    "vocab.txt": WORDS,
    CPM_BEE: WORDS,
    "qwen.tiktoken": RANKS,
    "emu3.tiktoken": RANKS,
    "arcade100k.tiktoken": RANKS,
}
VOCABULARY_FILES = ", ".join(KINDS).replace("vocab.json", "vocab.json with merges.txt")
PLAIN = "TokenizersBackend"  # what transformers calls a tokenizer that follows its file alone

Reader = Callable[[Path, TokenSettings, Mapping[str, Any]], Vocabulary]


def _of_pieces(build: Callable[[SentencePieceModel, TokenSettings], Vocabulary]) -> Reader:
    """A reader of sentencepiece files; a rank file by the name of tokenizer.model is LLaMA 3's."""

    def read(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
        data = read_bytes(path)
        if tiktoken_file.is_rank_file(data):
            return tiktoken_file.llama3(path, settings, config)
        return build(renamed(read_sentencepiece(data, where=str(path)), settings.added_by_id), settings)

    return read


READERS: dict[str, dict[str, Reader]] = {
    PIECES: {
        "LlamaTokenizer": _of_pieces(pieces.llama),
        "GemmaTokenizer": _of_pieces(pieces.gemma),
        "ChatGLMTokenizer": _of_pieces(pieces.chatglm),
        "T5Tokenizer": _of_pieces(pieces.t5),
        "XLMRobertaTokenizer": _of_pieces(pieces.xlm_roberta),
        **dict.fromkeys(
            (PLAIN, "InternLMTokenizer", "InternLM2Tokenizer", "InternLMXComposerTokenizer",
             "InternLMXComposer2Tokenizer"),
            _of_pieces(pieces.plain),
        ),
    },
    MERGES: {
        **dict.fromkeys(("GPT2Tokenizer", "CodeGenTokenizer", "WhisperTokenizer"), word_files.gpt2),
        **dict.fromkeys(("RobertaTokenizer", "BartTokenizer", "LongformerTokenizer"), word_files.roberta),
        "CLIPTokenizer": word_files.clip,
        "Qwen2Tokenizer": word_files.qwen2,
        "GPTNeoXTokenizer": word_files.gpt_neox,
    },
    WORDS: {
        **dict.fromkeys(
            ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "LxmertTokenizer", "MobileBertTokenizer"),
            word_files.bert,
        ),
        "CPMBeeTokenizer": word_files.cpm_bee,
    },
    RANKS: {"QWenTokenizer": tiktoken_file.qwen, "Emu3Tokenizer": tiktoken_file.emu3,
            "Arcade100kTokenizer": tiktoken_file.arcade100k},
}  # fmt: skip

# The class of folders whose files name none, by the model_type of config.json.
CLASS_OF_MODEL_TYPE = {
    model_type: name
    for name, model_types in {
        "LlamaTokenizer": "idefics idefics2",
        "GemmaTokenizer": "gemma gemma2 gemma3 gemma3_text recurrent_gemma",
        "T5Tokenizer": "t5 mt5 switch_transformers musicgen",
        "XLMRobertaTokenizer": "xlm-roberta trocr",
        "CLIPTokenizer": "clip clipseg groupvit owlvit owlv2 xclip",
        "GPT2Tokenizer": "gpt2 gpt_neo gptj codegen opt phi blip-2 instructblip emu3",
        "RobertaTokenizer": "roberta bart bridgetower clap data2vec-text florence2",
        "Qwen2Tokenizer": "qwen2 qwen2_moe qwen2_vl qwen2_5_vl qwen2_audio qwen3 qwen3_vl internvl",
        "GPTNeoXTokenizer": "gpt_neox mpt mamba olmo rwkv",
        "BertTokenizer": "bert blip align flava git vilt visual_bert electra distilbert visorgpt",
        "LxmertTokenizer": "lxmert",
        "WhisperTokenizer": "whisper",
        "CPMBeeTokenizer": "viscpm-chat viscpm-paint",
    }.items()
    for model_type in model_types.split()
}
# Model types for which AutoTokenizer follows tokenizer.model alone, whatever class the files name.
PLAIN_MODEL_TYPES = frozenset({
    "llava", "llava_next", "vipllava", "mistral", "mistral3", "mixtral", "pixtral", "ministral", "fuyu", "persimmon",
    "kosmos-2", "internlm2", "internlm3", "minicpmv", "minicpm3", "minicpmv4_6", "phi3", "phi3_v", "phimoe", "molmo",
    "molmo2", "openvla", "h2ovl_chat", "smolvlm", "stablelm", "aria", "glm", "glm4", "glm4v", "granite", "jamba",
    "arctic", "nemotron", "umt5",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A folder's vocabulary file, and what is made of it."""

    pipeline: Pipeline
    roles: Mapping[str, str | None]


def lacks_vocabulary(folder: Path) -> str | None:
    """Why no tokenizer can be made of a folder: no file for it, or of a kind that is not supported; None where one can.

    Vocabulary files themselves are not read.  Raises WeightsError and ConfigError for damaged files beside them.
    """
    files = _vocabulary_files(folder)
    if not files:
        return f"no tokenizer files, any of {VOCABULARY_FILES} would do"
    if files[0].name == "tokenizer.json":
        return None
    found = _reader(files, read_settings(folder), read_table(folder / "config.json"))
    return found if isinstance(found, str) else None


def read_tokenizer(folder: str | Path, **names: Any) -> Tokenizer:
    """The tokenizer of a folder; keywords as for `Tokenizer`, over what the files say of bos, eos and pad.

    Raises: WeightsError for a folder without a vocabulary file and for damaged, oversized or contradicting files,
    ConfigError for kinds and settings that are not supported, UnknownName for names outside of the vocabulary.
    """
    source = _read(Path(folder))
    return Tokenizer(source.pipeline, **{**source.roles, **names})


def _read(folder: Path) -> _Source:
    files = _vocabulary_files(folder)
    if not files:
        raise WeightsError(f"tokenizer: {folder} has {lacks_vocabulary(folder)}")
    settings = read_settings(folder)
    if files[0].name == "tokenizer.json":
        pipeline = pipeline_of_json(read_text(files[0], MAX_TOKENIZER_JSON), where=str(files[0]))
        return _Source(pipeline=pipeline, roles=_roles_of_json(pipeline, settings))
    config = read_table(folder / "config.json")
    found = _reader(files, settings, config)
    if isinstance(found, str):
        raise ConfigError(f"tokenizer: {folder} has {found}")
    path, reader = found
    vocabulary = made_by_library(
        f"{path} is not a valid vocabulary", lambda: _with_settings(path, reader(path, settings, config), settings)
    )
    pipeline = vocabulary.pipeline
    roles = {role: settings.role(role, vocabulary.roles.get(role)) for role in ("bos", "eos", "pad")}
    return _Source(pipeline=pipeline, roles=roles)


def _with_settings(path: Path, vocabulary: Vocabulary, settings: TokenSettings) -> Vocabulary:
    """The vocabulary with the tokens that the files beside it add; raises WeightsError when its ids have gaps."""
    pipeline = vocabulary.pipeline
    settings.add_to(pipeline, settings.tokens(vocabulary.roles, vocabulary.control, vocabulary.raw), path)
    ids = pipeline.get_vocab(with_added_tokens=True)
    if len(set(ids.values())) != len(ids):
        raise WeightsError(f"tokenizer: {path} has gaps: {len(ids)} tokens share {len(set(ids.values()))} ids")
    check_holes(ids.values())
    return vocabulary


def _roles_of_json(pipeline: Pipeline, settings: TokenSettings) -> dict[str, str | None]:
    """Bos, eos and pad of a tokenizer.json; what only the older files say counts where the vocabulary knows it."""
    special = {token.content for token in pipeline.get_added_tokens_decoder().values() if token.special}
    roles = {}
    for role in ("bos", "eos", "pad"):
        name = settings.role(role, None)
        roles[role] = name if name in special or settings.options.get(f"{role}_token") else None
    return roles


def _vocabulary_files(folder: Path) -> list[Path]:
    """The vocabulary files of a folder, in the order of `KINDS`."""
    found = [folder / name for name in KINDS if (folder / name).is_file()]
    return [path for path in found if path.name != "vocab.json" or (folder / word_files.MERGES).is_file()]


def _reader(files: list[Path], settings: TokenSettings, config: Mapping[str, Any]) -> tuple[Path, Reader] | str:
    """The file that is read, and how; a text that says what is wrong when no file is of a class that is supported."""
    if files[0].name == CPM_BEE:
        return files[0], word_files.cpm_bee
    name, own = _class_name(settings, config)
    if files[0].name == "tokenizer.model" and config.get("model_type") in PLAIN_MODEL_TYPES:
        return files[0], READERS[PIECES][PLAIN]
    if name is None and KINDS[files[0].name] == PIECES:
        return files[0], READERS[PIECES][PLAIN]
    for path in files:
        if name in READERS[KINDS[path.name]]:
            return path, READERS[KINDS[path.name]][name]
    file, kind = files[0].name, KINDS[files[0].name]
    reason = "but no tokenizer_class" if name is None else f"with tokenizer_class {name!r}, which is not supported"
    code = " (code of the folder is not run)" if own else ""
    return (
        f"{file} ({kind}) {reason}{code}; expected one of {', '.join(READERS[kind])} in tokenizer_config.json, "
        f"or a tokenizer.json beside it"
    )


def _class_name(settings: TokenSettings, config: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The tokenizer's class, without "Fast", and whether it is code of the folder itself."""
    name = settings.option("tokenizer_class", str, None) or config.get("tokenizer_class")
    if not isinstance(name, str):
        model_type = config.get("model_type")
        return CLASS_OF_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None, False
    name = name.removesuffix("Fast")
    return PLAIN if name == "PreTrainedTokenizer" else name, "auto_map" in settings.options
