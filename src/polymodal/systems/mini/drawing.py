"""The boxes of `mini`'s drawing: its parts, with what goes in and comes out."""

from polymodal.systems import Part, Variant
from polymodal.systems.mini import components


def parts(variant: Variant) -> tuple[Part, ...]:
    slots, hears = components.CONNECTOR.tokens(components.ENCODER.tokens), variant.name == components.HEARS
    grid = f"[N, {components.ENCODER.tokens}, {components.ENCODER.width}]"
    whisper = (
        Part(slot="encoder", modality="audio", name="Whisper tiny.en's encoder", prefix="encoders.audio",
             input="[N, 80, 3000]", output="[N, 1500, 384]", tokens=components.EAR.tokens),
        Part(slot="connector", modality="audio", name=f"spoken: CTC over {components.SPOKEN.vocab_size} tokens",
             prefix="connectors.audio", input="[N, 1500, 384]", output="N of [tokens heard, 576]"),
    ) if hears else (
        Part(slot="encoder", modality="audio", name="Whisper tiny.en, encoder and decoder", prefix="",
             parameters=37_184_256, input="[samples]", output="words of the conversation"),
    )  # fmt: skip
    return (
        Part(slot="encoder", modality="image", name="EfficientNet-Lite0, blocks 7, 10, 14, 15, top and classifier",
             prefix="encoders.image.grid", input="[N, 3, 224, 224]", output=grid,
             tokens=components.ENCODER.tokens),
        Part(slot="encoder", modality="image", name="CenterNet on MobileNetV3, things of 80 kinds",
             prefix="encoders.image.detector", input="[N, 3, 512, 512]", output="in front of the features"),
        *whisper[:1],
        Part(slot="connector", modality="image", name=f"names: 12 words of {components.CONNECTOR.names} names, 8 dense",
             prefix="connectors.image", input=grid, output=f"[N, {slots}, 576]", tokens=slots),
        *whisper[1:],
        Part(slot="backbone", name="SmolLM2-135M-Instruct + rank-8 adapters", prefix="backbone", input="[B, T, 576]",
             output="[B, T, 49152]"),
    )  # fmt: skip
