"""Check that nothing unwanted was dragged into the environment; exit code 1 and a line for each thing found.

.venv/bin/python scripts/check_environment.py
"""

import importlib.metadata
import re
import sys

from install import ROOT, has_nvidia_gpu

BANNED = ("torchvision", "torchaudio", "torchcodec")
CUDA = re.compile(r"^(nvidia-|cuda-|triton$)")


def complaints(names: set[str], gpu: bool) -> list[str]:
    """What is wrong with an environment of the packages `names` on a machine with or without a GPU."""
    found = [f"{name} is installed; it cannot work beside a CPU build of torch" for name in BANNED if name in names]
    if not gpu and (cuda := sorted(name for name in names if CUDA.match(name))):
        found.append(f"CUDA packages came in on a machine without an NVIDIA GPU: {', '.join(cuda)}")
    return found


def main() -> None:
    names = {(dist.metadata["Name"] or "").lower().replace("_", "-") for dist in importlib.metadata.distributions()}
    found = complaints(names, has_nvidia_gpu())
    if "torch" not in names:
        found.append("torch is not installed")
    for line in found:
        print(f"environment: {line}", file=sys.stderr)
    if found:
        print(f"Delete the environment and run `make` again in {ROOT}.", file=sys.stderr)
        sys.exit(1)
    print(f"environment: torch {importlib.metadata.version('torch')}, {len(names)} packages, nothing unwanted")


if __name__ == "__main__":
    main()
