"""Which code ran."""

import subprocess
from importlib import metadata
from pathlib import Path


def code_revision() -> str:
    """What git calls this code, else the version of the installed package, else ``unknown``.

    A job that Ray unpacked on a node has neither a repository nor an installation.
    """
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    try:
        return metadata.version("fpig")
    except metadata.PackageNotFoundError:
        return "unknown"
