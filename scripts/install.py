"""Install polymodal into the environment of the Python that runs this file.

    .venv/bin/python scripts/install.py [--pinned | --newest] [EXTRA ...]

Without an option this is what a user gets: the lower bounds of pyproject.toml.  --pinned takes the exact versions of
constraints/test.txt, which everything is tested against; --newest upgrades everything to its newest release.

Why not plain `pip install -e .`: on Linux the default torch wheel brings several GB of CUDA packages.  Where
no NVIDIA GPU is found this takes the CPU build: first from the package sources you have configured, then from
PyTorch's own index of CPU builds, and only if neither has it the default build, with a warning.  A torch that
is already installed is kept, whatever the option.
"""

import argparse
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
QUICK = ("--retries", "1", "--timeout", "15")


def has_nvidia_gpu() -> bool:
    """Whether the driver lists a GPU; a machine with the tool but no device counts as having none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    found = subprocess.run([tool, "-L"], capture_output=True, text=True)
    return found.returncode == 0 and "GPU" in found.stdout


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def pip(*arguments: str, quiet: bool = False) -> bool:
    """Run pip in this environment; `quiet` keeps its complaints back, since another way is tried next."""
    command = [sys.executable, "-m", "pip", "install", *arguments]
    return subprocess.run(command, stderr=subprocess.DEVNULL if quiet else None).returncode == 0


def install_torch() -> None:
    """Put the right build of torch in place unless one is there.

    The pins of constraints/test.txt are not applied here: one that a build of torch did not accept would make pip
    refuse every CPU build and end at the default one.
    """
    if installed("torch"):
        return
    default_build_is_cpu = platform.system() == "Darwin"
    if not default_build_is_cpu and not has_nvidia_gpu():
        wanted = ("-c", str(CONSTRAINTS / "cpu.txt"), "torch")
        print("No NVIDIA GPU found: installing the CPU build of PyTorch.", flush=True)
        if pip(*wanted, quiet=True):
            return
        if pip(*QUICK, "--extra-index-url", CPU_INDEX, *wanted, quiet=True):
            return
        if pip(*QUICK, "--index-url", CPU_INDEX, "torch", quiet=True):
            return
        print("No CPU build of PyTorch could be had; taking the default one, much larger.", flush=True)
    if not pip("torch>=2.6"):
        sys.exit("PyTorch could not be installed; see pip's message above.")


def options(*, pinned: bool, newest: bool, keep: Path) -> list[str]:
    """What pip is told beside the target.  keep: a constraints file that names the torch that is installed."""
    chosen = ["-c", str(keep), "-c", str(CONSTRAINTS / "any.txt")]
    if pinned:
        chosen += ["-c", str(CONSTRAINTS / "test.txt")]
    if newest:
        chosen += ["--upgrade", "--upgrade-strategy", "eager"]
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description="Install polymodal into the environment of this Python.")
    versions = parser.add_mutually_exclusive_group()
    versions.add_argument("--pinned", action="store_true", help="the exact versions that tests compare against")
    versions.add_argument("--newest", action="store_true", help="upgrade everything but torch")
    parser.add_argument("extras", nargs="*", metavar="EXTRA")
    given = parser.parse_args()
    install_torch()
    keep = Path(sys.prefix) / "keep-torch.txt"
    keep.write_text(f"torch=={installed_afresh('torch')}\n", encoding="utf-8")
    extras = ",".join(given.extras)
    target = f"{ROOT}[{extras}]" if extras else str(ROOT)
    if not pip(*options(pinned=given.pinned, newest=given.newest, keep=keep), "-e", target):
        sys.exit("polymodal could not be installed; see pip's message above.")
    sys.exit(subprocess.run([sys.executable, str(ROOT / "scripts" / "check_environment.py")]).returncode)


def installed_afresh(package: str) -> str:
    """The version in the environment as a new interpreter sees it (this one may have cached the folder)."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
