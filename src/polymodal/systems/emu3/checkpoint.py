"""Published checkpoints of Emu3: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones import llama
from polymodal.data.processor import Processor
from polymodal.data.template import Special, Template, Turn, Words
from polymodal.data.tokenizer import Tokenizer, pad_id_of
from polymodal.errors import ConfigError
from polymodal.fusion.vocabulary import Spelling, Table, Vocabulary
from polymodal.generators import vq_codec_3d
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.pipelines.image_generation import GridPainter, PictureFormat
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Variant,
)
from polymodal.systems.emu3.picture_size import AnySizeTransform, announced, transform_of
from polymodal.train.conversations import WrittenPictures
from polymodal.train.objectives import LanguageModeling
from polymodal.train.preference import Preference, PreferenceCollator

DEFAULTS = {"vocab_size": 184622, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 9216, "rms_norm_eps": 1e-5,
            "rope_theta": 1e6}  # fmt: skip


VISUAL, IMAGE, ROW_END, BOS, EOS = "<|visual token", "<image>", "<|extra_200|>", "<|extra_203|>", "<|extra_204|>"


AREA = 720 * 720  # pixels of the pictures that Emu3-Gen was trained to write


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
    backbone = llama.parse_config({**DEFAULTS, **text})
    codec = vq_codec_3d.parse_config(config.get("vq_config") or {})
    spelling, placeholder = spelling_of(config, backbone.vocab_size)
    inputs = {"image": ModalityInputs(values="pixel_values", encoder=("image_sizes",))}

    def build() -> DiscreteTokenLM:
        return DiscreteTokenLM(
            {"image": codec.build()}, {"image": spelling}, backbone.build(), {"image": placeholder}, inputs
        )

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        transform = transform_of(files.preprocessor)
        image = announced(transform, codec.stack.factor, IMAGE, (BEGIN, OPEN), TAIL)
        tokenizer = files.tokenizer()
        own = files.chat_template(tokenizer, {"image": IMAGE})
        if own is not None:  # the published processor begins every prompt so, whoever wrote it
            own = replace(
                own, special_tokens_around=((BOS, *own.special_tokens_around[0]), own.special_tokens_around[1])
            )
        processor = Processor(tokenizer=tokenizer, template=own or TEMPLATE, modalities=(image,),
                              max_length=backbone.max_length)  # fmt: skip
        return LoadedModel(
            model=module,
            processor=processor,
            paint=painter_of(module, tokenizer, transform, codec.stack.factor),
            collator=learned_from,
        )

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
    return ModelSpec(build=build, keys=tables, in_memory=tables[-1], parts=drawing, assemble=assemble)


def learned_from(objective: Any, learner: Any) -> Any:
    """What is asked for pictures, where those are learned; None: conversations."""
    writes = isinstance(objective, LanguageModeling) and objective.learn == ("image",)
    if not writes and not isinstance(objective, Preference):
        return None
    length = learner.max_length or learner.processor.max_length
    pictures = WrittenPictures(processor=learner.processor, max_length=length, begin=BOS, end=EOS)
    return pictures if writes else PreferenceCollator(inner=pictures)


def painter_of(
    module: DiscreteTokenLM, tokenizer: Tokenizer, transform: AnySizeTransform, factor: int
) -> GridPainter | None:
    """What paints with a published folder; None for a tokenizer without the marks around pictures."""
    marks = (BOS, BEGIN, OPEN, *TAIL, EOS)
    if not all(map(tokenizer.knows, marks)):
        return None
    return GridPainter(
        model=module,
        tokenizer=tokenizer,
        layout=PictureFormat.of(tokenizer, BOS, BEGIN, OPEN, (*TAIL, EOS), tokenizer.token(pad_id_of(tokenizer))),
        pixels=transform.picture,
        factor=factor,
        area=min(max(AREA, transform.min_pixels), transform.max_pixels),
        most=transform.max_pixels,
        positive=POSITIVE,
        negative=NEGATIVE,
    )


def text_model_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The decoder alone: Emu3ForCausalLM of the library, or the official repositories' (ids in, ids out)."""
    backbone = llama.parse_config({**DEFAULTS, **config})
    table = llama.hf_keys(backbone).prefixed("", "backbone.")
    return ModelSpec(build=lambda: MultimodalLM({}, {}, backbone.build(), {}), keys=(table,))


def parse_codec_config(config: Mapping[str, Any], official: bool) -> ModelSpec:
    """The codec alone: Emu3VQVAE of the library, or BAAI/Emu3-VisionTokenizer."""
    return ModelSpec(build=vq_codec_3d.parse_config(config).build, keys=(vq_codec_3d.keys(official),))


def published(**text: Any) -> dict[str, Any]:
    """The config.json of the library's checkpoints; code k is id 151854 + k there."""
    marks = {IMAGE: 151646, ROW_END: 151846, TAIL[0]: 151847, OPEN: 151851, BEGIN: 151852, TAIL[1]: 151853}
    names = {f"{VISUAL} {code:06d}|>": 151854 + code for code in range(32768)}
    return {"model_type": "emu3", "architectures": [MODEL], "text_config": text, "vocabulary_map": {**marks, **names}}


def _release(name: str, **text: Any) -> Variant:
    repository = Repository(name=f"Emu3-community/Emu3-{name.title()}-hf", license="Apache-2.0")
    return Variant(name=name, parameters=8_762_751_807, config=published(**text), repository=repository)


MODEL = "Emu3ForConditionalGeneration"
