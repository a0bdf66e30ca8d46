"""How BLIP was trained (arXiv 2201.12086), and how its captioner and filter are made of it (CapFilt).

The published pretraining also learns the next word with a decoder that shares all but self-attention with the text
encoder; here encoder and decoder are two models, and `pretrain` trains the first.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage
from polymodal.train.momentum import MomentumAlignment
from polymodal.train.schedule import StepDecay

ALL = ("image", "text", "image_proj", "text_proj", "match")
WRITER = ("image", "decoder", "head")
COCO = DataSource(name="COCO captions, Karpathy's split", kind="image-text pairs", samples=566_747)

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="COCO, Visual Genome, CC3M, CC12M, SBU", kind="image-text pairs", samples=14_000_000),
            DataSource(name="LAION-115M", kind="image-text pairs", samples=115_000_000),
        ),
        objective=MomentumAlignment(queue=57_600, ramp_steps=25_700, negative_floor=1e-4),
        train=ALL,
        optimizer=AdamW(lr=3e-4, weight_decay=0.05),
        schedule=StepDecay(warmup_steps=3000, warmup_start=1 / 300, gamma=0.9, periods=20, floor=1 / 300),
        budget=Budget(batch=2880, steps=257_000, epochs=20),
        start="parts",
        note="base size; an epoch holds a fifth of LAION; the next word of a decoder is learned too, and not here",
    ),
    Stage(
        name="captioner",
        data=(COCO,),
        objective=LanguageModeling(label_smoothing=0.1),
        train=WRITER,
        optimizer=AdamW(lr=1e-5, weight_decay=0.05),
        schedule=Cosine(),
        budget=Budget(batch=256, epochs=5),
        start="pretrain",
        note="pictures of 384 pixels; the words of the prompt are not learned",
    ),
    Stage(
        name="filter",
        data=(COCO,),
        objective=MomentumAlignment(queue=57_600, ramp_steps=4428, negative_floor=1e-4),
        train=ALL,
        optimizer=AdamW(lr=1e-5, weight_decay=0.05),
        schedule=Cosine(),
        budget=Budget(batch=256, epochs=6),
        start="pretrain",
    ),
    Stage(
        name="vqa",
        data=(
            DataSource(name="VQAv2 train and val", kind="conversations", samples=658_111),
            DataSource(name="Visual Genome QA", kind="conversations"),
        ),
        objective=LanguageModeling(label_smoothing=0.1),
        train=(*WRITER, "question"),
        optimizer=AdamW(lr=2e-5, weight_decay=0.05),
        schedule=Cosine(),
        budget=Budget(batch=256, epochs=10),
        start="pretrain",
        note="pictures of 480 pixels; an answer is weighted by how many people gave it (answer_weights)",
    ),
)
