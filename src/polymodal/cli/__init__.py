"""The command line: `polymodal ask photo.jpg "What is this?"`.  A client of the public interface, nothing else."""

import sys


def main() -> None:
    """Entry point of the `polymodal` command."""
    from polymodal.cli.app import run

    sys.exit(run(sys.argv[1:]))
