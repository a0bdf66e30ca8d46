"""Names of the parts that see and hear over time, as Video-LLaMA and GroundingGPT keep them.

visual_encoder.* ln_vision.*                                        -> encoders.video
Qformer.bert.* query_tokens video_Qformer.bert.* llama_proj.* ...   -> connectors.video
audio_encoder.* (ImageBind, of which the branch of sound is kept)   -> encoders.audio
audio_Qformer.bert.* audio_llama_proj.* ...                         -> connectors.audio
"""

from __future__ import annotations

from polymodal.checkpoints import lavis, qformer_lm
from polymodal.connectors import qformer
from polymodal.connectors.timed_qformer import TimedQFormerConfig
from polymodal.encoders import imagebind_keys
from polymodal.weights.keytable import KeyTable, drop


def video_keys(video: TimedQFormerConfig, encoder: str = "encoders.video.encoder.") -> KeyTable:
    """Encoder, Q-Former of a frame, Q-Former over time; encoder: where the vision encoder stands in the model."""
    assert video.frame is not None
    ours = "connectors.video."
    vision = lavis.vision_keys(ours=encoder)
    frame = lavis.qformer_keys(video.frame, f"{ours}frames.")
    positions = KeyTable.of({"video_frame_position_embedding.weight": f"{ours}positions.weight"})
    return vision + frame + _over_time(video, "video", "llama_proj") + positions + KeyTable((drop("t5_proj.**"),))


def audio_keys(sound: TimedQFormerConfig) -> KeyTable:
    """ImageBind's branch of sound, the others dropped by name, and the Q-Former over its clips."""
    audio = imagebind_keys.keys("audio").prefixed("audio_encoder.", "encoders.audio.encoder.")
    for name in imagebind_keys.MODALITIES:
        if name != "audio":
            audio += imagebind_keys.unused(name).prefixed("audio_encoder.")
    positions = KeyTable.of({"audio_position_embedding.weight": "connectors.audio.positions.weight"})
    return audio + _over_time(sound, "audio", "audio_llama_proj") + positions


def _over_time(config: TimedQFormerConfig, name: str, projection: str) -> KeyTable:
    ours = f"connectors.{name}."
    queries = qformer_lm.QUERIES.respelled({"query_tokens": f"{name}_query_tokens"}).prefixed("", f"{ours}qformer.")
    body = qformer.lavis_keys(config.over_time).prefixed(f"{name}_Qformer.bert.", f"{ours}qformer.")
    return queries + body + qformer_lm.linear(projection, f"{ours}proj")
