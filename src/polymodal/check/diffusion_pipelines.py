"""Tiny diffusion pipelines with random weights: what a caller of `draw` brings, at a size that runs in a second.

All need diffusers and transformers.  Those that take conditions `width` wide have no tokenizer: the empty prompt is
given as `negative_prompt_embeds`.
"""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check.library import quiet

BLOCKS = (8, 16)


def tiny_diffusion(width: int) -> Any:
    """A StableDiffusionPipeline: pictures of 16 x 16."""
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(cross_attention_dim=width, **_unet("2D"))
    return _quiet(diffusers.StableDiffusionPipeline(
        vae=_vae(3), text_encoder=_text(), tokenizer=None, unet=unet, scheduler=diffusers.DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False))  # fmt: skip


def tiny_prompted_diffusion() -> Any:
    """A StableDiffusionPipeline that reads a prompt, letter by letter: pictures of 16 x 16."""
    import diffusers
    import tokenizers

    torch.manual_seed(0)
    vocabulary = {"<s>": 0, "</s>": 1, **{letter: 2 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz ")}}
    letters = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<s>"))
    letters.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    with quiet() as transformers:
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=letters, bos_token="<s>", eos_token="</s>", pad_token="</s>", model_max_length=77
        )
    unet = diffusers.UNet2DConditionModel(cross_attention_dim=32, **_unet("2D"))
    return _quiet(diffusers.StableDiffusionPipeline(
        vae=_vae(3), text_encoder=_text(), tokenizer=tokenizer, unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False))  # fmt: skip


def tiny_unclip(width: int) -> Any:
    """A StableUnCLIPImg2ImgPipeline that is given vectors of a picture: pictures of 16 x 16."""
    import diffusers

    base = tiny_prompted_diffusion()
    torch.manual_seed(0)
    with quiet() as transformers:
        eyes = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(
            hidden_size=32, intermediate_size=32, num_attention_heads=4, num_hidden_layers=1, image_size=16,
            patch_size=8, projection_dim=width))  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        cross_attention_dim=32, class_embed_type="projection", projection_class_embeddings_input_dim=2 * width,
        **_unet("2D"))  # fmt: skip
    return _quiet(diffusers.StableUnCLIPImg2ImgPipeline(
        feature_extractor=None, image_encoder=eyes, tokenizer=base.tokenizer, text_encoder=base.text_encoder, unet=unet,
        image_normalizer=diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer
        .StableUnCLIPImageNormalizer(embedding_dim=width),
        image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"), vae=base.vae,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)))  # fmt: skip


def tiny_film(width: int) -> Any:
    """A TextToVideoSDPipeline (zeroscope's)."""
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet3DConditionModel(cross_attention_dim=width, **_unet("3D"))
    return _quiet(diffusers.TextToVideoSDPipeline(
        vae=_vae(3), text_encoder=_text(), tokenizer=None, unet=unet, scheduler=diffusers.DDIMScheduler()))  # fmt: skip


def tiny_sound(width: int) -> Any:
    """An AudioLDMPipeline; takes one vector `[1, width]`."""
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        cross_attention_dim=BLOCKS, class_embed_type="simple_projection", class_embeddings_concat=True,
        projection_class_embeddings_input_dim=width, **_unet("2D"))  # fmt: skip
    with quiet() as transformers:
        vocoder = transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(
            model_in_dim=8, upsample_initial_channel=16, upsample_rates=[2, 2], upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]], normalize_before=False))  # fmt: skip
        text = transformers.ClapTextModelWithProjection(
            transformers.ClapTextConfig(hidden_size=32, intermediate_size=32, num_attention_heads=4,
                                        num_hidden_layers=1, vocab_size=99))  # fmt: skip
    return _quiet(diffusers.AudioLDMPipeline(
        vae=_vae(1), text_encoder=text, tokenizer=None, unet=unet, scheduler=diffusers.DDIMScheduler(),
        vocoder=vocoder))  # fmt: skip


def _unet(kind: str) -> dict[str, Any]:
    return {"block_out_channels": BLOCKS, "layers_per_block": 1, "sample_size": 8, "in_channels": 4, "out_channels": 4,
            "norm_num_groups": 4, "attention_head_dim": 4,
            "down_block_types": (f"DownBlock{kind}", f"CrossAttnDownBlock{kind}"),
            "up_block_types": (f"CrossAttnUpBlock{kind}", f"UpBlock{kind}")}  # fmt: skip


def _vae(channels: int) -> Any:
    import diffusers

    return diffusers.AutoencoderKL(
        in_channels=channels, out_channels=channels, block_out_channels=BLOCKS, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip


def _text() -> Any:
    with quiet() as transformers:
        return transformers.CLIPTextModel(transformers.CLIPTextConfig(
            hidden_size=32, intermediate_size=32, num_attention_heads=4, num_hidden_layers=1, vocab_size=99,
            bos_token_id=0, eos_token_id=1))  # fmt: skip


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
