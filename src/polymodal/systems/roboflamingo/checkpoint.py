"""Published checkpoints of RoboFlamingo: config to model, names of tensors, the prompt, what a robot gets.

Which hidden state the policy reads: `hidden_states[-1]` of the language model, and that differs.  MosaicGPT (MPT-1B)
collects what ENTERS each block, so the last block and the final norm never act: they are dropped by name.  GPT-NeoX and
MPT-7B collect the normed output as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints import open_flamingo
from polymodal.checkpoints.open_flamingo import CLIP_L, EVERY, LAYERS, PUBLISHED, OpenFlamingo
from polymodal.connectors import resampler
from polymodal.data.actions import CALVIN
from polymodal.data.transforms import ShorterSideCrop
from polymodal.errors import ConfigError, PromptError
from polymodal.generators import recurrent_policy
from polymodal.generators.recurrent_policy import RecurrentPolicyConfig
from polymodal.models.action_policy import CAMERAS, ActionPolicy
from polymodal.pipelines.acting import Acting
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.train.trajectories import TrajectoryCollator
from polymodal.weights.keytable import KeyTable, drop

if TYPE_CHECKING:
    from torch import Tensor

END, IMAGE, PAD = "<|endofchunk|>", "<image>", "<PAD>"  # in the order in which they were added
LAST = "<|endoftext|>"
LONGEST = 32  # tokens of a prompt
KINDS = ("mosaic_gpt", "gpt_neox", "mpt")
FIXED = {"decoder_type": "lstm", "use_gripper": True, "use_state": False, "use_hist": False, "residual": False,
         "tcp_rel": False, "multi_step_action": 1}  # fmt: skip
"""Options of the official constructor that have one value here."""
TEXT_TOWER = ("transformer.**", "token_embedding.**", "ln_final.**", "positional_embedding", "text_projection",
              "logit_scale")  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as `published` writes it -> the model, at any size.

    Raises ConfigError for options of the official constructor that are not supported.
    """
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise ConfigError(f"roboflamingo: {name} {config[name]!r} is not supported; expected {value!r}")
    kind = config["text_config"].get("model_type")
    if kind not in KINDS:
        raise ConfigError(f"roboflamingo: text_config.model_type {kind!r}; expected one of {', '.join(KINDS)}")
    found, policy = open_flamingo.open_flamingo(config), policy_of(config)
    backbone, fuse = acting_part(found), config.get("fusion_mode", "post")
    if fuse not in ("post", "pre"):
        raise ConfigError(f"roboflamingo: fusion_mode {fuse!r} is not supported; expected 'post' or 'pre'")
    cameras = ("image", "gripper") if config.get("sep_resampler") else ("image",)

    def build() -> ActionPolicy:
        width = found.encoder.width
        made = {camera: found.connector.build(width, width) for camera in cameras}
        head = policy.build(backbone.width)
        return ActionPolicy(found.encoder.build(), made, backbone.build(), head, media=found.media, fuse=fuse)

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side: Any = found.encoder.image_size
        words = files.tokenizer(added=(END, IMAGE, PAD), eos=LAST, pad=PAD)
        still = ShorterSideCrop(size=side, crop=side)
        window = config.get("window_size", 12)

        def act(instruction: str) -> Acting:
            return Acting(module, prompt(words, instruction), still, window=window, space=CALVIN)

        def collator(objective: Any, learner: Any) -> Any:
            return TrajectoryCollator(
                ids=partial(prompt, words), transform=still, cameras=CAMERAS, window=window, pad=words.special(PAD)
            )

        return LoadedModel(model=module, processor=None, act=act, collator=collator)

    keys = keys_of(config, found, policy, cameras)
    return ModelSpec(build=build, keys=(keys,), parts=drawing(found, backbone, fuse), assemble=assemble)


def prompt(tokenizer: Any, instruction: str) -> list[int]:
    """`<image>instruction<|endofchunk|><|endoftext|>`; raises PromptError for none, or one that is too long.

    The official code cuts what is longer, the end tokens first.
    """
    if not isinstance(instruction, str) or not instruction.strip():
        raise PromptError("an episode needs an instruction in words, as 'lift the red block'; found none")
    first, *last = (tokenizer.special(name) for name in (IMAGE, END, LAST))
    ids = [first, *tokenizer.encode(instruction.strip()), *last]
    if len(ids) > LONGEST:
        raise PromptError(f"the instruction takes {len(ids)} tokens with those around it; expected {LONGEST} at most")
    return ids


def policy_of(config: Mapping[str, Any]) -> RecurrentPolicyConfig:
    """`policy_config` {hidden_size, num_layers} is no word of the official config: its sizes are fixed in the code."""
    given = dict(config.get("policy_config") or {})
    sizes = RecurrentPolicyConfig(
        hidden=given.pop("hidden_size", 1024), depth=given.pop("num_layers", 4), pooling=config.get("pooling", "max")
    )
    if given:
        raise ConfigError(f"roboflamingo: policy_config {sorted(given)} is not supported")
    return sizes


def acting_part(found: OpenFlamingo) -> DecoderConfig:
    """The decoder up to the state that the policy reads; it has no head."""
    whole = replace(found.backbone, tied=True, head_bias=False)
    if found.kind != "mosaic_gpt":
        return whole
    if whole.depth < 2:
        raise ConfigError("roboflamingo: mosaic_gpt acts by what enters its last layer; expected n_layers 2 or more")
    return replace(whole, blocks=whole.blocks[:-1], norm=None)


def keys_of(
    config: Mapping[str, Any], found: OpenFlamingo, policy: RecurrentPolicyConfig, cameras: tuple[str, ...]
) -> KeyTable:
    """The official module's names -> ours."""
    unused = ["embed_out.**", "lm_head.**"]
    if found.kind == "mosaic_gpt":
        unused += [f"{LAYERS[found.kind]}.{found.backbone.depth - 1}.**", "transformer.ln_f.**"]
    table = KeyTable((
        *(drop(f"vision_encoder.{name}") for name in TEXT_TOWER),
        *(drop(f"lang_encoder.{name}") for name in unused),
    ))  # fmt: skip
    table += open_flamingo.encoder_of(config).keys[0].prefixed("vision_encoder.visual.", "encoders.image.")
    for camera in cameras:
        theirs = "perceiver." if camera == "image" else "perceiver_gripper."
        table += resampler.OPEN_FLAMINGO_KEYS.prefixed(theirs, f"connectors.{camera}.")
    head = recurrent_policy.official_keys(policy).prefixed("lm_head.", "policy.")
    return table + open_flamingo.language_keys(config, found) + head


def drawing(found: OpenFlamingo, backbone: DecoderConfig, fuse: str) -> tuple[Part, ...]:
    """The boxes of `show`."""
    vision, connector, side = found.encoder, found.connector, found.encoder.image_size
    latents = connector.latents * (2 if fuse == "post" else 1)
    gated = sum(block.cross is not None for block in backbone.blocks)
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT, patches of the last layer", prefix="encoders.image",
             input=f"two cameras, each [B, steps, 3, {side}, {side}]", tokens=vision.tokens,
             output=f"[pictures, {vision.tokens}, {vision.width}]"),
        Part(slot="connector", modality="image", name=f"Perceiver resampler, {connector.depth} blocks",
             prefix="connectors", input=f"[pictures, {vision.tokens}, {vision.width}]",
             output=f"[B x steps, {latents}, {vision.width}]", tokens=latents),
        Part(slot="backbone", name=f"{found.kind} with {gated} gated cross-attention blocks", prefix="backbone",
             input=f"[B x steps, T, {backbone.width}], context", output=f"[B x steps, T, {backbone.width}]"),
        Part(slot="generator", modality="action", name="pooling over tokens, LSTM, two heads", prefix="policy",
             input=f"[B, steps, T, {backbone.width}]", output="pose [B, steps, 6], gripper [B, steps, 1]"),
    )  # fmt: skip


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """What was trained, and CLIP and the language model in folders beside it, as for OpenFlamingo."""
    return open_flamingo.gather(files.folder, visual="visual.")


def infer(shapes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config of a released file by its shapes, None for other files.  The fusion is in no name: "post" is taken."""
    plain = {name.removeprefix("module."): shape for name, shape in shapes.items()}
    found = open_flamingo.size_of(plain)
    if found is None or "lm_head.rnn.weight_ih_l0" not in plain:
        return None
    return {**published(*found), "sep_resampler": "perceiver_gripper.latents" in plain}


def published(size: str, vocabulary: int = 50280) -> dict[str, Any]:
    """The released setting on OpenFlamingo of that size."""
    text = {**PUBLISHED[size], "vocab_size": vocabulary}
    return {"model_type": "roboflamingo", "text_config": text, "vision_config": CLIP_L,
            "cross_attn_every_n_layers": EVERY[size], "eoc_token_id": 50277, "media_token_id": 50278,
            "fusion_mode": "post", "sep_resampler": False, "window_size": 12, "pooling": "max"}  # fmt: skip
