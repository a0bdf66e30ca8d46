"""Weight normalisation is torch's, folded; and an array out of what joblib writes."""

import base64
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from polymodal.errors import ConfigError
from polymodal.weights.array_pickle import read_joblib
from polymodal.weights.weight_norm import NAMES, folded


@pytest.mark.parametrize(("dim", "module"), [(0, nn.Conv1d(4, 6, 3)), (2, nn.Conv1d(4, 6, 5)),
                                             (0, nn.ConvTranspose1d(4, 6, 3))])  # fmt: skip
def test_folded_weights_are_torch_s(dim, module) -> None:
    normed = nn.utils.parametrizations.weight_norm(module, dim=dim)
    with torch.no_grad():
        normed.parametrizations.weight.original0.uniform_(-2, 2)
    row = folded("x", "y", NAMES[1], dim)
    length, direction = (normed.state_dict()[name] for name in NAMES[1])
    (weight,) = row.convert([length, direction])
    assert torch.allclose(weight, normed.weight, atol=1e-6)
    again = row.inverse().convert([weight])
    assert torch.allclose(row.convert(again)[0], weight, atol=1e-6)
    assert row.shapes([tuple(length.shape), tuple(direction.shape)]) == [tuple(weight.shape)]
    assert row.inverse().shapes([tuple(weight.shape)]) == [tuple(length.shape), tuple(direction.shape)]
    with pytest.raises(ConfigError, match="weight norm: expected lengths of shape"):
        row.shapes([(9, 1, 1), tuple(direction.shape)])


# joblib 1.6.0 dump of scikit-learn 1.9.1 MiniBatchKMeans(3, random_state=0), centroids 3 x 2, protocol 4, deflated.
DUMPED = (
    "eNptU89r1EAUTveH3W5Lu1ZRsFBRtFQWU4tehMra7mHB0BU86EV8TLJTZ2wyEzKT1q0KFWytODenJy+ePAqeRap/hZ5EPXisf0J9SXdtBd8hTF"
    "6+N+973/eyXtqeKTh5mJNqOaQkEW4QpkrTxIXliBKhrBlb5IIvEB0wbzHPvLIXntondtpUBfTQynpFU0KctmZo+WJeWa9bU4nIQ+AIsF7HFLUM"
    "bcvphTkiIC/wBszgCk18qaj1HDOSENGREShNdJ4Yz+4QEngUJ3KFRlRgTdVU/YwSKL5G7aJTMqOBjOJUUwiJT0Nlt8xQdv0+oG3GE0qU4vdFVg"
    "8J0VzaVuPZ2o/Wu+OPzKiAJUp0mlCFpMB6BVOCjC72H4QDosNwqKs3aapw0CN/FaAZduqofCwIZCo0anjsgfRD7rsijeIuxDxAsa052s5e55OE"
    "dO8kJI5Rpr/aVlTqByFStqacV1kzKDokwyLIlBUjMfYsbuBZJh0sNQNNPHd0F/PsdP+E2MLSFfti67m9ZafRpYE52263b+xh5A/P0dY3VRKGch"
    "WiiMSo3MQ+z7wbkLCvmt/VFAerpX45q9xz1j83HefXguO8bG6/7vs6AnSVoC400Zygxj+nPu3u7v42tcN5iLjAb18ngssYZuw/Bp9AMRUXQeao"
    "Qst6/mWW1HprBwFicfvAsol93dgkO8POekWvsGnZOXaeTbE6c7fYTMZ6bO/fuHd34+P7UrFx7fbbxodvbxrzX6KdxzeHd7ahPwvyOlgMmepszS"
    "tIS9MYm3qn0JN8vfNzpT+bbV2/tDn3PbugBr3/CnDFFZcCLZp1r7qzNvXdP3E0YjE="
)
CENTRES = "XlyFvbEEAz89VqY/u96gP0HXbb98Twu/"


def test_an_array_of_what_joblib_wrote(tmp_path: Path) -> None:
    path = tmp_path / "km.bin"
    path.write_bytes(zlib.decompress(base64.b64decode(DUMPED)))
    found = read_joblib(path, "cluster_centers_")
    assert (
        found.dtype == np.float32
        and found.tolist() == np.frombuffer(base64.b64decode(CENTRES), "f4").reshape(3, 2).tolist()
    )
    with pytest.raises(ConfigError, match="holds no array centres; expected what joblib"):
        read_joblib(path, "centres")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"damaged|ends early"):
        read_joblib(path, "cluster_centers_")
    path.write_bytes(zlib.compress(path.read_bytes()))
    with pytest.raises(ConfigError, match="is no pickle"):
        read_joblib(path, "cluster_centers_")
