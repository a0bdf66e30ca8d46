"""How CoDi was trained (arXiv 2305.11846): each diffusion model alone, prompts brought together, outputs together.

Rates, steps and batches are in the paper's appendix, which was not at hand; no training script was published.
"""

from polymodal.systems import DataSource, Stage
from polymodal.train.joint_diffusion import BridgingAlignment, ComposedDenoising, LatentAlignment

SOUNDS = DataSource(name="AudioSet, AudioCaps, Freesound 500K, BBC Sound Effect", kind="audio-text pairs")
FILMS = DataSource(name="WebVid, HD-VILA-100M", kind="video-text pairs")
PICTURES = DataSource(name="LAION-400M", kind="image-text pairs")
MADE = ("image", "text", "audio")
JOIN = (*(f"generators.{name}.environment" for name in MADE),
        *(f"generators.{name}.{way}.*.join" for name in MADE for way in ("downs", "ups")))  # fmt: skip

RECIPE = (
    Stage(
        name="picture",
        data=(PICTURES,),
        objective=ComposedDenoising(makes="image"),
        train=("generators.image",),
        start="parts",
        note="from Stable Diffusion 1.5",
    ),
    Stage(
        name="video",
        data=(FILMS,),
        objective=ComposedDenoising(makes="video"),
        train=("generators.image",),
        start="picture",
        note="which part of the U-Net learns with what mixes frames is not said in the released code",
    ),
    Stage(name="sound", data=(SOUNDS,), objective=ComposedDenoising(makes="audio"), train=("generators.audio",),
          start="parts"),
    Stage(
        name="text",
        data=(PICTURES,),
        objective=ComposedDenoising(makes="text"),
        train=("generators.text",),
        start="parts",
        note="captions are made, pictures ask for them",
    ),
    Stage(
        name="bridge-sound",
        data=(SOUNDS,),
        objective=BridgingAlignment(modality="audio"),
        train=("encoders.audio",),
        start="parts",
        note="texts stay as CLIP has them",
    ),
    Stage(name="bridge-video", data=(FILMS,), objective=BridgingAlignment(modality="video"),
          train=("encoders.image.mixings",), start="parts"),
    Stage(
        name="join",
        data=(FILMS, SOUNDS, PICTURES),
        objective=LatentAlignment(makes=("video", "audio")),
        train=JOIN,
        start="text",
        note="pairs in turn: pictures with texts, sounds with pictures, sounds with texts, videos with sounds",
    ),
)  # fmt: skip
