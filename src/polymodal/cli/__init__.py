"""The command line: `polymodal ask photo.jpg "What is this?"`.  A client of the public interface, nothing else."""

import os
import sys


def main() -> None:
    """Entry point of the `polymodal` command."""
    from polymodal.cli.app import complain, run
    from polymodal.cli.streams import open_streams

    if not open_streams():
        sys.exit(complain("standard output is closed; nothing could be printed", 1))
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as problem:
        # What is still buffered cannot be written: neither now nor when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        broken_pipe = isinstance(problem, BrokenPipeError)
        code = code or (1 if broken_pipe else complain(f"cannot write the output: {problem.strerror}", 1))
    sys.exit(code)
