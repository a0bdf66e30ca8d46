"""ImageBind's audio trunk for its tokens: the head is absent, tokens have one length, clips are averaged."""

import pytest
import torch

from polymodal.check import randomise
from polymodal.encoders import imagebind_keys
from polymodal.errors import ConfigError

CONFIG = {"audio_embed_dim": 24, "audio_num_blocks": 1, "audio_num_heads": 2, "audio_kernel_size": 32,
          "audio_stride": 32}  # fmt: skip


def test_tokens():
    encoder = imagebind_keys.imagebind_tokens(CONFIG, "audio").eval()
    randomise.fill(encoder)
    sound = randomise.values("sound", (2, 3, 1, 128, 204))
    with torch.no_grad():
        found = encoder(sound)
        each = torch.stack([encoder(sound[:, [clip]]) for clip in range(3)])
    assert found.shape == (2, 1 + 4 * 6, 24)
    assert torch.allclose(each.norm(dim=-1), encoder.scale.log_scale.exp().expand(each.shape[:-1]), rtol=1e-5)
    assert torch.allclose(found, each.mean(0), atol=1e-5)
    with pytest.raises(ConfigError, match="without the joint space"):
        encoder.encoder.joint(sound[:, 0])
