"""How MiniGPT-v2 was trained (arXiv 2310.09478): the linear and low-rank paths of LLaMA-2, in three stages of data."""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, LoRAConfig, Stage

TARGETS = ("q_proj", "v_proj")
LORA = {f"backbone.blocks.*.attn.{name}": LoRAConfig(rank=64, alpha=16, dropout=0.05) for name in TARGETS}
WEAK = (
    DataSource(name="LAION, CC3M and SBU", kind="image-text pairs"),
    DataSource(name="GRIT-20M", kind="image-text pairs", samples=20_000_000),
)
FINE = (
    DataSource(name="COCO caption and TextCaps", kind="conversations"),
    DataSource(name="RefCOCO, RefCOCO+, RefCOCOg and Visual Genome", kind="conversations"),
    DataSource(name="GQA, VQAv2, OCR-VQA, OK-VQA and A-OKVQA", kind="conversations"),
)
TALKS = (
    DataSource(name="LLaVA conversation, detail and reasoning", kind="conversations"),
    DataSource(name="Flickr30k grounded captions", kind="conversations"),
    DataSource(name="multi-task conversations", kind="conversations"),
    DataSource(name="Unnatural Instructions", kind="text"),
)
RELEASED = "schedule, weight decay and length are those of the released file, which is of the last stage"


def stage(name: str, data: tuple[DataSource, ...], start: str, rate: float, batch: int, steps: int, note: str) -> Stage:
    return Stage(
        name=name,
        data=data,
        objective=LanguageModeling(),
        train=("connectors.image",),
        lora=LORA,
        optimizer=AdamW(lr=rate, weight_decay=0.05),
        schedule=Cosine(warmup_steps=1000, warmup_start=0.1, final=0.1),
        budget=Budget(batch=batch, steps=steps, max_length=1024, precision="float16"),
        start=start,
        note=note,
    )


RECIPE = (
    stage("pretrain", (*WEAK, *FINE), "parts", 1e-4, 96, 400_000, RELEASED),
    stage("multi-task", FINE, "pretrain", 1e-5, 64, 50_000, RELEASED),
    stage("instruct", (*FINE, *TALKS), "multi-task", 1e-5, 24, 35_000,
          "the released file's samples by ratio: conversations 50, LLaVA 30 20 80, Flickr30k 3 x 80, Visual Genome 40"),
)  # fmt: skip
