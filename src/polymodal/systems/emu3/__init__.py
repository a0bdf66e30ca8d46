"""Emu3: pictures, videos and text as ids of one vocabulary, written and read by next-token prediction alone.

Paper: Emu3: Next-Token Prediction is All You Need (arXiv 2409.18869).

    picture -> sides of multiples of 8 -> 3-D VQ codec -> h x w codes -> ids, a row end behind every row   (fusion D)
    `<|image start|>` h*w `<|image token|>` rows `<|extra_201|>` `<|image end|>` in the text -> LLaMA-like decoder
    ids that were written -> codes -> the codec's way back -> pixels                 (pipelines/image_generation.py)

Traps: a picture has as many ids as its size says; the last row has its row end too, and the end of the frame is another
id; the codec takes videos, the released decoders do not; published files of the library call the parts
`text_model.model`, `vqmodel`, those saved by transformers 5 `model.text_model`, `model.vqmodel`; the official
repositories hold decoder and codec apart, with other names.  Lengths and batches of the recipe are not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from polymodal.backbones import llama
from polymodal.data.processor import Processor
from polymodal.data.template import Special, Template, Turn, Words
from polymodal.errors import ConfigError
from polymodal.fusion.vocabulary import Spelling, Table, Vocabulary
from polymodal.generators import vq_codec_3d
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.systems.emu3.picture_size import announced, transform_of

DEFAULTS = {"vocab_size": 184622, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 9216, "rms_norm_eps": 1e-5,
            "rope_theta": 1e6}  # fmt: skip
VISUAL, IMAGE, ROW_END, BOS, EOS = "<|visual token", "<image>", "<|extra_200|>", "<|extra_203|>", "<|extra_204|>"
BEGIN, OPEN, TAIL = "<|image start|>", "<|image token|>", ("<|extra_201|>", "<|image end|>")
TEMPLATE = Template(
    begin=(Special(name=BOS),),
    turns={
        "system": Turn(after=(Words(text=" "),)),
        "user": Turn(before=(Words(text="USER: "),), after=(Words(text=". "),)),
        "assistant": Turn(before=(Words(text="ASSISTANT:"), Words(text=" ", loss_mask=True)),
                          after=(Special(name=EOS, loss_mask=True),), loss_mask=True),
    },
    ask=(Words(text="ASSISTANT:"),),
    default_system="You are a helpful assistant.",
)  # fmt: skip
NEGATIVE = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)
POSITIVE = " masterpiece, film grained, best quality."


def spelling_of(config: Mapping[str, Any], size: int) -> tuple[Spelling, int]:
    """How `vocabulary_map` spells a picture, and the id of the placeholder (-1: none).

    Raises ConfigError for a map without codes or row end.
    """
    names: Mapping[str, int] = config.get("vocabulary_map") or {}
    table = Table.named(names, lambda name: int(name[-8:-2]) if name.startswith(VISUAL) else None)
    if not table.ids or ROW_END not in names:
        raise ConfigError(f"emu3: vocabulary_map must name {VISUAL!r}... and {ROW_END!r}: how pictures are written")
    return Spelling(Vocabulary(size=size, codecs={"image": table}), row_end=names[ROW_END]), names.get(IMAGE, -1)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An Emu3Config dict -> the model; raises ConfigError for options that are not supported."""
    text = {**(config.get("text_config") or {}), "tie_word_embeddings": config.get("tie_word_embeddings", False)}
    backbone = llama.config_of({**DEFAULTS, **text})
    codec = vq_codec_3d.of_config(config.get("vq_config") or {})
    spelling, placeholder = spelling_of(config, backbone.vocab_size)
    inputs = {"image": ModalityInputs(values="pixel_values", encoder=("image_sizes",))}

    def build() -> DiscreteTokenLM:
        return DiscreteTokenLM(
            {"image": codec.build()}, {"image": spelling}, backbone.build(), {"image": placeholder}, inputs
        )

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        image = announced(transform_of(files.preprocessor), codec.stack.factor, IMAGE, (BEGIN, OPEN), TAIL)
        processor = Processor(tokenizer=files.tokenizer(), template=TEMPLATE, modalities=(image,),
                              max_length=backbone.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    plain = llama.hf_keys(backbone)
    tables = tuple(
        plain.respelled({"model.": model, "lm_head.": head}).prefixed("", "backbone.")
        + vq_codec_3d.keys().prefixed(codes, "encoders.image.")
        for model, head, codes in (("text_model.model.", "text_model.lm_head.", "vqmodel."),
                                   ("model.text_model.", "lm_head.", "model.vqmodel."))
    )  # fmt: skip
    drawing = (Part(slot="encoder", modality="image", name=f"VQ codec, {codec.codes} codes", prefix="encoders.image",
                    input="[N, 3, H, W]", output="codes [N, H/8, W/8]"),
               Part(slot="backbone", name="LLaMA-like decoder", prefix="backbone", input="ids of text and pictures",
                    output=f"[B, T, {backbone.vocab_size}]"))  # fmt: skip
    return ModelSpec(build=build, keys=tables, parts=drawing, assemble=assemble)


def open_text(config: Mapping[str, Any]) -> ModelSpec:
    """The decoder alone: Emu3ForCausalLM of the library, or the official repositories' (ids in, ids out)."""
    backbone = llama.config_of({**DEFAULTS, **config})
    table = llama.hf_keys(backbone).prefixed("", "backbone.")
    return ModelSpec(build=lambda: MultimodalLM({}, {}, backbone.build(), {}), keys=(table,))


def open_codec(config: Mapping[str, Any], official: bool) -> ModelSpec:
    """The codec alone: Emu3VQVAE of the library, or BAAI/Emu3-VisionTokenizer."""
    return ModelSpec(build=vq_codec_3d.of_config(config).build, keys=(vq_codec_3d.keys(official),))


def published(**text: Any) -> dict[str, Any]:
    """The config.json of the library's checkpoints; code k is id 151854 + k there."""
    marks = {IMAGE: 151646, ROW_END: 151846, TAIL[0]: 151847, OPEN: 151851, BEGIN: 151852, TAIL[1]: 151853}
    names = {f"{VISUAL} {code:06d}|>": 151854 + code for code in range(32768)}
    return {"model_type": "emu3", "architectures": [MODEL], "text_config": text, "vocabulary_map": {**marks, **names}}


def _release(name: str, **text: Any) -> Variant:
    repository = Repository(name=f"Emu3-community/Emu3-{name.title()}-hf", license="Apache-2.0")
    return Variant(name=name, parameters=8_762_751_807, config=published(**text), repository=repository)


MODEL = "Emu3ForConditionalGeneration"
SYSTEM = System(
    id="emu3",
    aliases=("Emu3", "Emu3-Chat", "Emu3-Gen"),
    year=2024,
    fusion=("D",),
    assembly="DiscreteTokenLM",
    inputs=("text", "image"),
    outputs=("text", "image"),
    headline="writes pictures and understands them by predicting the next id of one vocabulary",
    reference="arXiv 2409.18869",
    formats=(
        CheckpointFormat(name=f"transformers {MODEL}", parse_config=parse_config, matches=hf("emu3", MODEL)),
        CheckpointFormat(
            name="transformers Emu3ForCausalLM",
            parse_config=open_text,
            matches=hf("emu3_text_model", "Emu3ForCausalLM"),
        ),
        CheckpointFormat(
            name="official Emu3ForCausalLM", parse_config=open_text, matches=hf("Emu3", "Emu3ForCausalLM")
        ),
        CheckpointFormat(
            name="transformers Emu3VQVAE", parse_config=partial(open_codec, official=False), matches=hf("emu3_vqgan")
        ),
        CheckpointFormat(
            name="official Emu3VisionVQ", parse_config=partial(open_codec, official=True), matches=hf("Emu3VisionVQ")
        ),
    ),
    variants=(_release("chat", max_position_embeddings=131072), _release("gen")),
    recipe=(
        Stage(
            name="pretrain",
            data="text and captioned pictures, then videos; contexts of 5120, then 131072",
            objective="next id, picture ids weighted 0.5",
            train=("backbone",),
            lr=5e-5,
            batch=512,
            steps=100_000,
        ),
        Stage(
            name="generate",
            data="pictures of high quality, 720 x 720 pixels, without a prompt at 5 percent",
            objective="next id of pictures",
            train=("backbone",),
            lr=1e-5,
            batch=64,
            steps=10_000,
            warmup=30,
            final=0.1,
            weight_decay=0.1,
            betas=(0.9, 0.95),
            clip=5.0,
        ),
        Stage(
            name="chat",
            data="pictures and text, then visual instructions, pictures of 512 to 1024 pixels",
            objective="next id of answers",
            train=("backbone",),
            lr=1e-5,
            batch=64,
            steps=10_000,
        ),
    ),
)
