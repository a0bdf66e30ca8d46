"""Small random models: the same weights in the reference library and here, and one with a picture encoder."""

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder, DecoderBlockConfig, DecoderConfig
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.rope import RopeConfig

VOCABULARY, WIDTH = 61, 32
NAMES = (
    ("model.layers.", "blocks."),
    ("model.", ""),
    ("self_attn.", "attn."),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "mlp_norm"),
)


def scrambled(module: nn.Module, seed: int, spread: float = 0.25) -> nn.Module:
    """Every parameter random, norms and biases too, so that nothing is hidden by a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return module.eval()


def tiny_decoder(vocabulary: int = VOCABULARY, max_length: int = 512) -> Decoder:
    block = DecoderBlockConfig(
        attention=AttentionConfig(width=WIDTH, heads=4, kv_heads=2),
        mlp=GatedMLPConfig(width=WIDTH, ffn_width=48),
    )
    rope = RopeConfig(head_dim=WIDTH // 4, theta=10000.0)
    return DecoderConfig(
        vocab_size=vocabulary, width=WIDTH, blocks=(block,) * 2, rope=rope, max_length=max_length
    ).build()


def text_model(seed: int = 0, vocabulary: int = VOCABULARY, max_length: int = 512) -> MultimodalLM:
    decoder = scrambled(tiny_decoder(vocabulary, max_length), seed)
    return MultimodalLM({}, {}, decoder, {}).eval()


def reference_pair(seed: int):
    """(LlamaForCausalLM of transformers, MultimodalLM here) with equal weights."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    reference = scrambled(transformers.LlamaForCausalLM(config), seed)
    weights = {}
    for name, value in reference.state_dict().items():
        for old, new in NAMES:
            name = name.replace(old, new)
        weights[name] = value
    decoder = tiny_decoder()
    decoder.load_state_dict(weights)
    return reference, MultimodalLM({}, {}, decoder, {}).eval()


class TinyEncoder(nn.Module):
    """Pictures [N, 3, S, S] -> one feature for each column [N, S, 3 S]; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.items = 0
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, pixel_values: Tensor) -> Tensor:
        self.items += pixel_values.shape[0]
        return pixel_values.permute(0, 3, 1, 2).flatten(2) * self.weight


def picture_model(placeholder: int, vocabulary: int, seed: int = 0, side: int = 4) -> MultimodalLM:
    model = MultimodalLM(
        {"image": TinyEncoder()},
        {"image": nn.Linear(3 * side, WIDTH)},
        tiny_decoder(vocabulary),
        {"image": placeholder},
    )
    return scrambled(model, seed)
