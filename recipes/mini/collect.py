"""What a run of a stage learned -> the released files: `python recipes/mini/collect.py RUN`.

    align      connectors.image: recall, class keys, mix      instruct   dense, confidence, adapters
    hear       connectors.audio (hears.safetensors)           several    confidence, adapters

Everything else in the file stays.  The heads that only training has are not kept.  `collect.py --earlier FILE` takes
over what `instruct` and `calibrate.py` made of an earlier released file instead, to go on from.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from solve import PACKED
from torch import Tensor, nn
from torch.nn.utils import parametrize

from polymodal.api.run_record import record_of
from polymodal.api.training import learned
from polymodal.nn.lora import lora_state
from polymodal.systems.mini.components import TRAINED, TRAINED_HEARS, YES
from polymodal.train.checkpoint import complete
from polymodal.weights.export import save_safetensors
from polymodal.weights.packed import pack
from polymodal.weights.read import read_safetensors

OF = {
    "align": ("recall.", "class_keys", "mix"),
    "instruct": ("dense.", "confidence"),
    "several": ("confidence",),
}


def heard(connector: nn.Module) -> dict[str, Tensor]:
    """The connector of recordings, its keys with what their spelling adds, its matrices as bytes."""
    parametrize.remove_parametrizations(connector.classes, "weight")
    matrices = {f"{name}.weight" for name, part in connector.named_modules() if isinstance(part, nn.Linear)}
    return pack(connector.state_dict(), matrices)


def replaced(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """The file with these tensors in place of those of their names."""
    stored = read_safetensors(path)
    kept = {name: stored[name] for name in stored}
    save_safetensors({**kept, **tensors}, path, metadata=dict(stored.metadata))
    print(f"{path}: {path.stat().st_size} bytes")


def spoken(path: Path) -> dict[str, Tensor]:
    """Dense features, confidence, adapters and the offset of "Yes" of a released file."""
    stored = read_safetensors(path)
    of = (*(f"connector.{name}" for name in OF["instruct"]), "adapters.", YES)
    return {name: stored[name] for name in stored if name.startswith(of)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("run", type=Path, nargs="?", help="folder of `polymodal train recipes/mini/start.py:STAGE`")
    given.add_argument("--earlier", type=Path, help="a released file")
    args = parser.parse_args()
    if args.earlier:
        replaced(Path(TRAINED.name), spoken(args.earlier))
        return
    model, stage = learned(record_of(args.run), complete(args.run)[-1])
    if stage.name == "hear":
        replaced(Path(TRAINED_HEARS.name), heard(model.module.connectors["audio"]))
        return
    connector = model.module.connectors["image"].state_dict()
    found = {f"connector.{name}": x for name, x in connector.items() if name.startswith(OF[stage.name])}
    found |= {f"adapters.{name}": x for name, x in lora_state(model.module.backbone).items()}
    replaced(Path(TRAINED.name), pack(found, PACKED))


if __name__ == "__main__":
    main()
