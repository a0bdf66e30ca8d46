"""LWM's Jax parameters, flattened with "/" -> ours: kernels lie the other way, layers may be stacked in one array.

    transformer/wte/embedding, transformer/vte/embedding, lm_head/kernel, vision_head/kernel      tables and heads
    transformer/h/scan_decoder/attention/wq/kernel [L, in, out], or transformer/h/0/attention/wq/kernel [in, out]
    vqgan/encoder/DownsamplingBlock_0/ResnetBlock_0/Conv_0/kernel [h, w, in, out]                 the codec

Traps: rows of wq and wk are ordered for rope on neighbouring pairs; flax numbers modules by their kind, so a decoder's
block 0 is its coarsest level, and `Conv_2` of a residual block is its shortcut.
"""

from __future__ import annotations

from collections.abc import Iterator

from polymodal.backbones.decoder import DecoderConfig
from polymodal.backbones.llama_meta import NAMES, rope_order
from polymodal.checkpoints.flax_conv import conv, norm
from polymodal.generators.conv_stack import ConvStackConfig
from polymodal.weights.joins import Unstack
from polymodal.weights.keytable import KeyTable, Row, fuse, rename
from polymodal.weights.operations import Operation, Transpose

TURNED = Transpose()
NORMS = {"attention_norm": "attn_norm", "ffn_norm": "mlp_norm"}


def decoder_keys(config: DecoderConfig, text: int, scanned: bool) -> KeyTable:
    """scanned: the layers are stacked, as `scan_layers` stores them."""
    sizes = (text, config.vocab_size - text)
    heads = ("lm_head/kernel", "vision_head/kernel")
    tables = ("transformer/wte/embedding", "transformer/vte/embedding")
    rows: list[Row] = [
        fuse(tables, "embed_tokens.weight", sizes=sizes),
        fuse(heads, "lm_head.weight", sizes=sizes, each=((TURNED,), (TURNED,))),
        rename("transformer/ln_f/kernel", "norm.weight"),
    ]
    for source, target in NAMES.items():
        turns: list[Operation] = [TURNED, *rope_order(config, source)]
        kernel = f"{source.replace('.', '/')}/kernel"
        rows.append(_layers(kernel, f"{target}.weight", tuple(turns), len(config.blocks), scanned))
    for source, target in NORMS.items():
        rows.append(_layers(f"{source}/kernel", f"{target}.weight", (), len(config.blocks), scanned))
    return KeyTable(tuple(rows))


def _layers(source: str, target: str, turns: tuple[Operation, ...], depth: int, scanned: bool) -> Row:
    if not scanned:
        return rename(f"transformer/h/{{}}/{source}", f"blocks.{{}}.{target}", *turns)
    targets = tuple(f"blocks.{layer}.{target}" for layer in range(depth))
    return Row((f"transformer/h/scan_decoder/{source}",), targets, Unstack(depth), after=(turns,) * depth)


def codec_keys(config: ConvStackConfig) -> KeyTable:
    """The VQGAN's names -> a VQCodec."""
    rows = [rename("quantize/embeddings", "codebook.embedding.weight")]
    for name in ("quant_conv", "post_quant_conv"):
        rows += conv(name, name)
    levels = len(config.channels)
    for side, way, resize in (("encoder", "Downsampling", "Downsample"), ("decoder", "Upsampling", "Upsample")):
        rows += [*conv(f"{side}/Conv_0", f"{side}.conv_in"), *norm(f"{side}/GroupNorm_0", f"{side}.norm_out"),
                 *conv(f"{side}/Conv_1", f"{side}.conv_out")]  # fmt: skip
        for number, place in enumerate(("first", "second")):
            rows += _block(f"{side}/MidBlock_0/ResnetBlock_{number}", f"{side}.middle.{place}")
        for number in range(levels):
            block = f"{side}/{way}Block_{number}"
            level = f"{side}.levels.{number if side == 'encoder' else levels - 1 - number}"
            rows += [*_block(f"{block}/ResnetBlock_{{}}", f"{level}.blocks.{{}}"),
                     *conv(f"{block}/{resize}_0/Conv_0", f"{level}.resize")]  # fmt: skip
    return KeyTable(tuple(rows))


def _block(source: str, target: str) -> Iterator[Row]:
    for number, name in enumerate(("1", "2")):
        yield from norm(f"{source}/GroupNorm_{number}", f"{target}.norm{name}")
        yield from conv(f"{source}/Conv_{number}", f"{target}.conv{name}")
    yield from conv(f"{source}/Conv_2", f"{target}.shortcut")
