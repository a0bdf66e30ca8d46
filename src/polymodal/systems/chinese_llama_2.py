"""Chinese-Llama-2-7b of LinkSoul: Llama 2 taught Chinese by ten million instructions; text only.

    text -> tokens -> Llama-2-7B, 32 blocks of width 4096 -> text

Source: the repository LinkSoul-AI/Chinese-Llama-2-7b (README, train.py); there is no paper.
Traps: exactly the format of llama-2-chat, with the beginning token before every question; the system message keeps the
line break and the twelve spaces of the README; no words were added to the vocabulary, so its config is that of any
Llama 2: a folder is recognised by its name alone, or by `system="chinese-llama-2"`.
"""

from __future__ import annotations

from polymodal.checkpoints.language_model import llama, llama_layout, named_after
from polymodal.data.chat_formats import llama2
from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Repository, Stage, System, Variant

SYSTEM_MESSAGE = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n            "
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
TEMPLATE = llama2(SYSTEM_MESSAGE)


SYSTEM = System(
    id="chinese-llama-2",
    aliases=("Chinese-Llama-2-7b", "Chinese Llama 2", "Chinese-Llama2"),
    year=2023,
    fusion=(),
    assembly="MultimodalLM",
    inputs=("text",),
    outputs=("text",),
    formats=(llama_layout(lambda config: TEMPLATE, named_after("chinese-llama-2-7b")),),
    variants=(
        Variant(name="7b", parameters=6_738_415_616,
                config=llama(4096, 32, 32, 11008, vocab_size=32000, rms_norm_eps=1e-5, max_position_embeddings=4096),
                repository=Repository(name="LinkSoul/Chinese-Llama-2-7b", license="Apache-2.0; Llama 2 community")),
    ),
    headline="answers in Chinese and English in the format of llama-2-chat",
    reference="github.com/LinkSoul-AI/Chinese-Llama-2-7b",
    recipe=(
        Stage(
            name="instruct",
            data=(DataSource(name="LinkSoul/instruction_merge_set", kind="conversations", samples=10_000_000),),
            objective=LanguageModeling(),
            train=("backbone",),
            optimizer=AdamW(lr=2e-5),
            schedule=Cosine(warmup_ratio=0.03),
            budget=Budget(batch=32, epochs=1, max_length=4096, precision="bfloat16"),
            start="parts",
        ),
    ),
)  # fmt: skip
