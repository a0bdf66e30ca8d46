"""How conversations are written for the chat models of the first Qwen (arXiv 2309.16609), Qwen-VL and Qwen-Audio.

    chatml  <|im_start|>system\n...<|im_end|>\n<|im_start|>user\n...<|im_end|>\n<|im_start|>assistant\n
    raw     the text as it is, <|endoftext|> behind an answer

Traps: role, line end and content are tokenised one by one; training learns the answers and all special tokens of the
format with the line ends behind them, in every turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.errors import ConfigError

END = "<|im_end|>"
QWEN_7B: Mapping[str, Any] = {
    "model_type": "qwen", "architectures": ["QWenLMHeadModel"], "hidden_size": 4096, "intermediate_size": 22016,
    "num_hidden_layers": 32, "num_attention_heads": 32, "kv_channels": 128, "max_position_embeddings": 8192,
    "seq_length": 2048, "rotary_emb_base": 10000, "rotary_pct": 1.0, "no_bias": True, "use_dynamic_ntk": True,
    "use_logn_attn": True, "tie_word_embeddings": False,
}  # fmt: skip
"""What the config.json of Qwen-VL and of Qwen-Audio both say of their language model."""


def _turn(role: str) -> Turn:
    before = (Special(name="<|im_start|>", loss_mask=True), Words(text=role), TEXT_START, Words(text="\n"), TEXT_START)
    after = (Special(name=END, loss_mask=True), Words(text="\n", loss_mask=True))
    return Turn(before=before, after=after, loss_mask=role == "assistant")


CHATML = Template(
    turns={role: _turn(role) for role in ("system", "user", "assistant")},
    ask=_turn("assistant").before,
    default_system="You are a helpful assistant.",
)
RAW = Template(
    turns={"user": Turn(), "assistant": Turn(after=(Special(name="<|endoftext|>", loss_mask=True),), loss_mask=True)}
)


def template_of(generation: Mapping[str, Any]) -> tuple[Template, str]:
    """The format that a generation_config.json names, and the token that ends an answer; absent: the chat models'."""
    named = generation.get("chat_format", "chatml")
    if named not in ("chatml", "raw"):
        raise ConfigError(f"generation_config.json: chat_format: expected 'chatml' or 'raw', found {str(named)[:40]!r}")
    return (CHATML, END) if named == "chatml" else (RAW, "<|endoftext|>")


def numbered(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """Each item of media between "<words> 1:" and a line end, counted over the conversation."""
    count, found = 0, []
    for message in messages:
        parts: list[Any] = []
        for part in message.parts:
            if isinstance(part, Text):
                parts.append(part)
                continue
            count += 1
            parts += [Text(f"{words} {count}:"), part, Text("\n")]
        found.append(Message(role=message.role, parts=tuple(parts)))
    return tuple(found)
