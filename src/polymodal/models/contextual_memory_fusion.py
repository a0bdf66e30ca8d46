"""C-MFN (UR-FUNNY, arXiv 1904.06618): is a punchline funny, by a memory fusion network that begins from its context.

    context, S sentences of three modalities [B, S, T, F] -> an LSTM each, last state [B, S, W]
        -> side by side in time, a linear each               -> first cell states of the three LSTMs below
        -> side by side in width, transformer over sentences -> first memory [B, M]
    punchline, word by word: three LSTM cells; c* = cell states before and after, side by side
        a = softmax(mlp(c*)) * c*;  memory = keep(a, memory) * memory + write(a, memory) * tanh(mlp(a))
    last states and memory -> mlp -> logit [B, 1]

Traps: sentences and words are padded IN FRONT, and padding is read like the rest: LSTMs step over it, and no sentence
is masked in the transformer (the official mask looks for states of zeros, which biases never leave).  Positions of
padded sentences are 0, real ones count from 1.  First hidden states are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.models.score_head import require_names
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PostNormBlockConfig
from polymodal.nn.lstm import LSTM
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename
from polymodal.weights.operations import Squeeze

MODALITIES = ("text", "audio", "vision")
LAYERS = ("attention", "proposal", "keep", "write", "classifier")
CONTEXT = {name: f"context_{name}" for name in MODALITIES}


@dataclass(frozen=True, kw_only=True)
class ContextualMemoryFusionConfig:
    """features: input widths by modality.  context, states: widths of the LSTMs of sentences and of the punchline.

    hidden: inner widths of the mlps (`attention`, `proposal`, `keep`, `write`, `classifier`).  words: of a table of
    word vectors in the model, then text is ids; 0: text is vectors.  width to ffn_width: of the transformer.
    drops: rates of dropout by the names of `hidden`, by modality (first cell states), and of `memory` (the first one).
    """

    features: Mapping[str, int]
    context: Mapping[str, int]
    states: Mapping[str, int]
    hidden: Mapping[str, int]
    memory: int
    sentences: int = 5
    steps: int = 20
    words: int = 0
    width: int = 512
    depth: int = 6
    heads: int = 8
    head_dim: int = 64
    ffn_width: int = 2048
    drops: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("features", "context", "states"):
            require_names(f"C-MFN: {name}", getattr(self, name), MODALITIES)
        require_names("C-MFN: hidden", self.hidden, LAYERS)
        known = (*LAYERS, *MODALITIES, "memory")
        if unknown := [name for name in self.drops if name not in known]:
            raise ConfigError(f"C-MFN: drops names {unknown[0]!r}; expected some of {', '.join(known)}")

    def build(self) -> ContextualMemoryFusion:
        return ContextualMemoryFusion(self)


class TwoLinears(nn.Module):
    """`[B, D] -> [B, W]`, ReLU and dropout between."""

    def __init__(self, in_width: int, width: int, out_width: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_width, width)
        self.fc2 = nn.Linear(width, out_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


class ContextMemory(nn.Module):
    """Sentences `[B, S, D]` and their positions `[B, S]` -> the first memory `[B, M]`."""

    def __init__(self, config: ContextualMemoryFusionConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(sum(config.context.values()), config.width)
        self.positions = nn.Parameter(sinusoids(config.sentences + 1, config.width), requires_grad=False)
        block = PostNormBlockConfig(
            attention=AttentionConfig(
                width=config.width, heads=config.heads, head_dim=config.head_dim, qkv_bias=True, out_bias=True
            ),
            mlp=MLPConfig(width=config.width, ffn_width=config.ffn_width, activation="relu"),
            norm=LayerNormConfig(eps=1e-5),
        )
        self.blocks = nn.ModuleList(block.build() for _ in range(config.depth))
        self.out = nn.Linear(config.sentences * config.width, config.memory)

    def forward(self, sentences: Tensor, positions: Tensor) -> Tensor:
        x = self.proj(sentences) + F.embedding(positions, self.positions)
        for block in self.blocks:
            x = block(x)
        return self.out(x.flatten(1))


class ContextualMemoryFusion(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "features", "predictions"})

    def __init__(self, config: ContextualMemoryFusionConfig) -> None:
        super().__init__()
        self.config = config
        states, rate = config.states, config.drops
        self.table = nn.Embedding(config.words, config.features["text"]) if config.words else None
        self.context = nn.ModuleDict({n: LSTM(config.features[n], config.context[n], 1) for n in MODALITIES})
        self.starts = nn.ModuleDict({n: nn.Linear(config.sentences * config.context[n], states[n]) for n in MODALITIES})
        self.start_dropout = nn.ModuleDict({n: nn.Dropout(rate.get(n, 0.0)) for n in (*MODALITIES, "memory")})
        self.context_memory = ContextMemory(config)
        self.cells = nn.ModuleDict({n: nn.LSTMCell(config.features[n], states[n]) for n in MODALITIES})
        total, memory = sum(states.values()), config.memory
        shapes = {"attention": (2 * total, 2 * total), "proposal": (2 * total, memory),
                  "keep": (2 * total + memory, memory), "write": (2 * total + memory, memory),
                  "classifier": (total + memory, 1)}  # fmt: skip
        self.mlps = nn.ModuleDict(
            {n: TwoLinears(a, config.hidden[n], b, rate.get(n, 0.0)) for n, (a, b) in shapes.items()}
        )

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """The context's sentences by modality, `[B, S, W]`."""
        return self.sentences(self.given(batch, context=True))

    def sentences(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each sentence's last state."""
        return {
            name: self.context[name](self.vectors(name, x).flatten(0, 1))[:, -1].unflatten(0, x.shape[:2])
            for name, x in context.items()
        }

    def vectors(self, name: str, x: Tensor) -> Tensor:
        return self.table(x) if name == "text" and self.table is not None else x

    def given(self, batch: Mapping[str, Any], context: bool) -> dict[str, Tensor]:
        """The punchline, or its context, padded in front to the config's lengths."""
        known = (*MODALITIES, *CONTEXT.values(), "labels")
        if unknown := sorted(name for name, value in batch.items() if value is not None and name not in known):
            raise ConfigError(f"C-MFN: does not know the inputs {unknown}; it takes {', '.join(known)}")
        lengths = (self.config.sentences, self.config.steps) if context else (self.config.steps,)
        made = {}
        for name in MODALITIES:
            if batch.get(name) is None:
                raise PromptError(f"C-MFN: expected {', '.join(MODALITIES)} of the punchline, found no {name}")
            x = batch.get(CONTEXT[name]) if context else batch[name]
            if x is None:  # no context: sentences of zeros
                x = batch[name].new_zeros(len(batch[name]), *lengths, *batch[name].shape[2:])
            made[name] = self.fitted(CONTEXT[name] if context else name, name, x, lengths)
        shapes = {name: x.shape[: 1 + len(lengths)] for name, x in made.items()}
        if len({*shapes.values(), (len(batch["text"]), *lengths)}) > 1:
            found = ", ".join(f"{name} {len(x)}" for name, x in made.items())
            raise PromptError(f"C-MFN: expected one number of samples, {len(batch['text'])}, found {found}")
        return made

    def fitted(self, said: str, name: str, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """x, padded in front.  Raises PromptError for another shape, and for more sentences or words than are read."""
        ids = name == "text" and self.config.words
        expected = (
            "B",
            *(("S", "T") if len(lengths) == 2 else ("T",)),
            *(() if ids else (self.config.features[name],)),
        )
        if x.dim() != len(expected) or 0 in x.shape or (not ids and x.shape[-1] != expected[-1]):
            what = "ids " if ids else ""
            raise PromptError(f"C-MFN: {said} must be {what}[{', '.join(map(str, expected))}], found {list(x.shape)}")
        pads = [] if ids else [0, 0]
        for unit, limit, size in zip(
            ("words", "sentences"), lengths[::-1], x.shape[len(lengths) : 0 : -1], strict=False
        ):
            if size > limit:
                raise PromptError(
                    f"C-MFN: {said} has {size} {unit}, {limit} are read; take the first words and the last sentences"
                )
            pads += [limit - size, 0]
        x = F.pad(x, pads)
        if ids and x.device.type == "cpu" and not bool(((x >= 0) & (x < self.config.words)).all()):
            raise PromptError(f"C-MFN: {said}: ids must be 0 to {self.config.words - 1}, found {int(x.max())}")
        return x

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, 1]`, above 0 where it is funny, and the same as predictions["humour"] `[B]`; labels: 0 or 1."""
        punchline, context = self.given(batch, False), self.given(batch, True)
        sentences = self.sentences(context)
        cells = {n: self.start_dropout[n](self.starts[n](sentences[n].flatten(1))) for n in MODALITIES}
        joined = torch.cat([sentences[n] for n in MODALITIES], -1)
        memory = self.start_dropout["memory"](self.context_memory(joined, positions(context)))
        logits = self.mlps["classifier"](
            self.read({n: self.vectors(n, x) for n, x in punchline.items()}, cells, memory)
        )
        output = Output(logits=logits, features=sentences, predictions={"humour": logits[:, 0]})
        if labels is None:
            return output
        loss = F.binary_cross_entropy_with_logits(logits.float(), labels.reshape(-1, 1).float())
        return output._replace(loss=loss, losses={"humour": loss})

    def read(self, words: Mapping[str, Tensor], cells: dict[str, Tensor], memory: Tensor) -> Tensor:
        """The punchline's last states and memory, side by side, `[B, D]`."""
        states = {name: torch.zeros_like(x) for name, x in cells.items()}
        for step in range(self.config.steps):
            before = [cells[name] for name in MODALITIES]
            for name in MODALITIES:
                states[name], cells[name] = self.cells[name](words[name][:, step], (states[name], cells[name]))
            both = torch.cat((*before, *(cells[name] for name in MODALITIES)), 1)
            attended = self.mlps["attention"](both).softmax(1) * both
            seen = torch.cat((attended, memory), 1)
            keep, write = (torch.sigmoid(self.mlps[name](seen)) for name in ("keep", "write"))
            memory = keep * memory + write * torch.tanh(self.mlps["proposal"](attended))
        return torch.cat((*(states[name] for name in MODALITIES), memory), 1)


def positions(context: Mapping[str, Tensor]) -> Tensor:
    """0 for sentences of zeros, 1, 2, ... for the others, which stand behind them, int64 `[B, S]`."""
    count = (
        torch.stack([x.flatten(2).ne(0).any(-1) if x.dim() > 2 else x.ne(0) for x in context.values()]).any(0).sum(1)
    )
    size = next(iter(context.values())).shape[1]
    return (torch.arange(1, size + 1, device=count.device) - (size - count)[:, None]).clamp(min=0)


def sinusoids(count: int, width: int) -> Tensor:
    """Sine at even places, cosine at odd ones; position 0 is zeros, `[count, width]`."""
    angles = torch.arange(count)[:, None] / 10000 ** (2 * (torch.arange(width) // 2) / width)
    table = torch.where(torch.arange(width) % 2 == 0, angles.sin(), angles.cos())
    return torch.cat((torch.zeros(1, width), table[1:]))


_OFFICIAL = {"text": ("text", "l"), "audio": ("audio", "a"), "vision": ("video", "v")}
MLPS = {"attention": "att1", "proposal": "att2", "keep": "gamma1", "write": "gamma2", "classifier": "out"}


def official_keys(config: ContextualMemoryFusionConfig) -> KeyTable:
    """The names of the authors' Contextual_MFN -> ours; its two tables of word vectors are one."""
    inner, merger = "multimodal_context.self_attention_module", "context_memory"
    rows: list[Row] = [
        rename(f"{inner}.encoder.position_enc.weight", f"{merger}.positions"),
        *_pairs({f"{inner}.encoder.src_word_emb": f"{merger}.proj", f"{inner}.fc_to_mfn_mem": f"{merger}.out"}),
    ]
    words = "unimodal_context.word_embedding.embed.weight"
    if config.words:
        rows += [rename(words, "table.weight"), drop("mfn.word_embedding.embed.weight", copy_of=words)]
    weights = [f"{what}_{part}" for what in ("weight", "bias") for part in ("ih", "hh")]
    for name, (long, short) in _OFFICIAL.items():
        rows += [rename(f"unimodal_context.{long}_LSTM.{leaf}_l0", f"context.{name}.{leaf}_l0") for leaf in weights]
        rows += [rename(f"mfn.lstm_{short}.{leaf}", f"cells.{name}.{leaf}") for leaf in weights]
        rows += _pairs({f"multimodal_context.fc_uni_{long}_to_mfn_{long}_input": f"starts.{name}"})
    for name, other in MLPS.items():
        rows += _pairs({f"mfn.{other}_fc{i}": f"mlps.{name}.fc{i}" for i in (1, 2)})
    layer, block = f"{inner}.encoder.layer_stack.{{}}", f"{merger}.blocks.{{}}"
    rows += _pairs({f"{layer}.slf_attn.w_{part}s": f"{block}.attn.{part}_proj" for part in "qkv"})
    norms = {"slf_attn.fc": "attn.o_proj", "slf_attn.layer_norm": "attn_norm", "pos_ffn.layer_norm": "mlp_norm"}
    rows += _pairs({f"{layer}.{other}": f"{block}.{target}" for other, target in norms.items()})
    for other, target in (("w_1", "up_proj"), ("w_2", "down_proj")):
        rows.append(rename(f"{layer}.pos_ffn.{other}.weight", f"{block}.mlp.{target}.weight", Squeeze(2)))
        rows.append(rename(f"{layer}.pos_ffn.{other}.bias", f"{block}.mlp.{target}.bias"))
    return KeyTable(tuple(rows))


def _pairs(names: Mapping[str, str]) -> list[Row]:
    return [rename(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in names.items() for leaf in ("weight", "bias")]
