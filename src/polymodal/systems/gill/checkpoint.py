"""Published checkpoints of GILL: config to model, names of tensors, the files that belong together, prompts.

config.json               the published model_args.json with text_config (OPT's) and vision_config (CLIP's)
pretrained_ckpt.pth.tar   what was trained, with the eight rows of the new tokens
decision_model.pth.tar    draw or find; without it the config says `decides` false
a folder of OPT (its tokenizer too), one of CLIP, and stable-diffusion-v1-5 as diffusers has it, for `draw`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones import opt
from polymodal.checkpoints import stable_diffusion
from polymodal.connectors.joint_heads import JointHeads
from polymodal.connectors.pooled_tokens import PooledTokens
from polymodal.data.hf_image import CLIP, transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.encoders import clip_vit
from polymodal.encoders.pooled_vit import PooledViT
from polymodal.errors import ConfigError, WeightsError
from polymodal.generators.diffusion import DiffusionSettings
from polymodal.generators.query_projector import QueryProjectorConfig, official_keys
from polymodal.models.multimodal_lm import ModalityInputs
from polymodal.models.signal_token_lm import SignalTokenLM, SignalTokens
from polymodal.pipelines.signal_embedding import SignalEmbedder
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.gill.prompt import CLS, InterleavedFormat
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.merged import MergedTensors, locations
from polymodal.weights.operations import Reshape

ARGS = {"n_visual_tokens": 4, "ret_emb_dim": 256, "gen_emb_dim": 768, "num_tokens": 8, "num_clip_tokens": 77}
FIXED = {"text_fc_mode": "gill_mapper", "ret_text_fc_mode": "linear", "text_emb_layers": [-1], "share_ret_gen": True,
         "norm_image_embed": "none"}  # fmt: skip
DRAWN = {"image": DiffusionSettings(output_field="images", guidance=7.5, steps=50)}
TABLE = "model.lm.model.decoder.embed_tokens.weight"
OPT_6_7B = {"model_type": "opt", "vocab_size": 50274, "hidden_size": 4096, "word_embed_proj_dim": 4096,
            "ffn_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 32}  # fmt: skip
VIT_L_14 = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": 224, "patch_size": 14}  # fmt: skip
STOP = "\n"  # the published code cuts an answer at its first line


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config.json as the module docstring has it, at any size.  Raises ConfigError for options nobody reads."""
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise ConfigError(f"gill: {name} {config[name]!r} is not supported; expected {value!r}")
    sizes = {name: int(config.get(name, value)) for name, value in ARGS.items()}
    text, vit = opt.parse_config(config["text_config"]), clip_vit.parse_config(config["vision_config"])
    width = text.embed_width or text.width
    if width != text.width:
        raise ConfigError(f"gill: word_embed_proj_dim {width}: expected hidden_size, {text.width}")
    placeholder = config.get("image_token_index", text.vocab_size - sizes["num_tokens"] - 1)
    signal = tuple(range(text.vocab_size - sizes["num_tokens"], text.vocab_size))
    mapper = QueryProjectorConfig(in_width=width, out_width=sizes["gen_emb_dim"], queries=sizes["num_clip_tokens"])
    decides = bool(config.get("decides", True))

    def build() -> SignalTokenLM:
        return SignalTokenLM(
            {"image": PooledViT(vit)},
            {"image": PooledTokens(vit.width, width, sizes["n_visual_tokens"])},
            text.build(),
            {"image": placeholder},
            {"image": ModalityInputs(values="pixel_values")},
            {"image": mapper.build()},
            SignalTokens(ids={"image": signal}, forced=True, settings=DRAWN, columns=False),
            JointHeads(vit.width, width, sizes["ret_emb_dim"], decides),
        )

    side, given = vit.image_size, config["text_config"]
    assert isinstance(side, int)
    ends = ((given.get("eos_token_id", 2), signal[-1]), given.get("pad_token_id", 1))  # a picture ends an answer
    return ModelSpec(build=build, keys=(keys_of(text, vit, decides),), parts=drawing(vit, text, mapper, sizes),
                     ends=ends, assemble=partial(assemble, signal=signal, side=side, placeholder=placeholder,
                                      most=text.max_length))  # fmt: skip


def keys_of(text: Any, vit: Any, decides: bool) -> KeyTable:
    """The whole official module's names, the decision's in front of it."""
    pairs = {"visual_embeddings": "connectors.image.proj", "visual_fc": "retrieval.image",
             "ret_text_hidden_fcs.0.model": "retrieval.text"}  # fmt: skip
    rows = [rename(f"model.{theirs}.{leaf}", f"{ours}.{leaf}") for theirs, ours in pairs.items()
            for leaf in ("weight", "bias")]  # fmt: skip
    rows.append(rename("model.logit_scale", "retrieval.logit_scale", Reshape((), (1,))))
    rows.append(drop("model.input_embeddings.weight", copy_of=TABLE))
    if decides:
        rows += [rename(f"decision_model.1.{leaf}", f"retrieval.decision.{leaf}") for leaf in ("weight", "bias")]
    return (
        KeyTable(tuple(rows))
        + opt.hf_keys(text).prefixed("model.lm.", "backbone.")
        + clip_vit.hf_keys(vit).prefixed("model.visual_model.", "encoders.image.vit.")
        + official_keys().prefixed("model.gen_text_hidden_fcs.0.", "projectors.image.")
    )


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """One file of everything, or the published files and the folders of OPT and CLIP.  Raises WeightsError."""
    trained, decision = files.folder / "pretrained_ckpt.pth.tar", files.folder / "decision_model.pth.tar"
    if not trained.is_file():
        return weights_in(files.folder, ("state_dict", ""))
    kinds = parts_of(files)
    lm, vision = kinds.get("opt"), kinds.get("clip") or kinds.get("clip_vision_model")
    if lm is None or vision is None:
        raise WeightsError(f"{files.folder}: beside pretrained_ckpt.pth.tar expected a folder of OPT and one of CLIP, "
                           f"found {', '.join(sorted(map(str, kinds))) or 'none'}")  # fmt: skip
    own = weights_in(trained, ("state_dict", ""))
    found = locations(weights_in(lm), "model.lm.")
    if "model.lm.decoder.embed_tokens.weight" in found:  # saved without the head
        found = {name.replace("model.lm.", "model.lm.model."): each for name, each in found.items()}
    seen = weights_in(vision)
    found |= {f"model.visual_model.{name}": (seen, name) for name in seen if name.startswith("vision_model.")}
    found |= {name: each for name, each in locations(own).items() if name != "model.input_embeddings.weight"}
    if decision.is_file():
        found |= locations(weights_in(decision, ("state_dict", "")), "decision_model.")
    table = extended(MergedTensors.of(found), own["model.input_embeddings.weight"], files)
    return MergedTensors.of({**found, TABLE: (table, TABLE)})


def parts_of(files: CheckpointFiles) -> dict[str, Path]:
    """The folders beside the weights by their model_type."""
    return {str(CheckpointFiles(each.parent).json("config.json").get("model_type")): each.parent
            for each in sorted(files.folder.glob("*/config.json"))}  # fmt: skip


def extended(whole: Mapping[str, Tensor], rows: Tensor, files: CheckpointFiles) -> dict[str, Tensor]:
    """OPT's table, cut and with the rows of the new tokens behind it."""
    size = int(files.json("config.json")["text_config"]["vocab_size"])
    old = whole[TABLE]
    if len(old) < size - len(rows):
        raise WeightsError(f"{files.folder}: OPT has {len(old)} rows, expected {size - len(rows)} in front of the new")
    return {TABLE: torch.cat((old[: size - len(rows)], rows.to(old.dtype)))}


def assemble(
    module: nn.Module, files: CheckpointFiles, *, signal: Sequence[int], side: int, placeholder: int, most: int | None
) -> LoadedModel:
    """Conversations, pictures and vectors, from a folder whose tokenizer is OPT's.  Raises ConfigError for another."""
    assert isinstance(module, SignalTokenLM)
    home = files if files.lacks_tokenizer() is None else CheckpointFiles(parts_of(files).get("opt", files.folder))
    names = tuple(f"[IMG{number}]" for number in range(len(signal)))
    words = home.tokenizer(added=(CLS, *names))
    for name, index in zip((CLS, *names), (placeholder, *signal), strict=True):
        if words.special(name) != index:
            raise ConfigError(f"gill: {name} is token {words.special(name)}, expected {index}; the vocabulary must be "
                              "that of OPT, which the new tokens follow")  # fmt: skip
    transform = transform_of(files.preprocessor, {**CLIP, "size": {"shortest_edge": side},
                                                  "crop_size": {"height": side, "width": side}})  # fmt: skip
    connector = module.connectors["image"]
    assert isinstance(connector, PooledTokens)
    image = Modality(name="image", placeholder=CLS, transform=transform, tokens=SameCount(connector.tokens))
    processor = Processor(tokenizer=words, template=InterleavedFormat(signal=names), modalities=(image,),
                          max_length=most)  # fmt: skip
    return LoadedModel(model=module, processor=processor, stop=(STOP,), paint=stable_diffusion.own(files.folder),
                       embed=SignalEmbedder(module, processor))  # fmt: skip


def drawing(vit: Any, text: Any, mapper: QueryProjectorConfig, sizes: Mapping[str, int]) -> tuple[Part, ...]:
    """The boxes of `show`."""
    side, width, tokens = vit.image_size, text.width, sizes["n_visual_tokens"]
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT, pooled", prefix="encoders.image", tokens=1,
             input=f"[N, 3, {side}, {side}]", output=f"[N, {vit.width}]"),
        Part(slot="connector", modality="image", name=f"linear, {tokens} tokens", prefix="connectors.image",
             input=f"[N, {vit.width}]", output=f"[N, {tokens}, {width}]", tokens=tokens),
        Part(slot="backbone", name="OPT", prefix="backbone", input=f"[B, T, {width}]",
             output=f"[B, T, {text.vocab_size}]"),
        Part(slot="output connector", modality="image", name="mapper", prefix="projectors.image",
             input=f"[k, {sizes['num_tokens']}, {width}]", output=f"[k, {mapper.queries}, {mapper.out_width}]"),
        Part(slot="output connector", modality="image", name="heads that find pictures", prefix="retrieval",
             input=f"[N, {vit.width}], [k, {width}]", output=f"[., {sizes['ret_emb_dim']}]"),
        Part(slot="generator", modality="image", name="Stable Diffusion 1.5", prefix="", parameters=943_174_827,
             input=f"[k, {mapper.queries}, {mapper.out_width}]", output="image"),
    )  # fmt: skip
