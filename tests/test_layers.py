"""The shape of the repository: import layers, file lengths, and the tree that the README shows."""

import re
import subprocess
from pathlib import Path

from tests.servers import BIN

ROOT = Path(__file__).parent.parent
MAX_LINES = 300


def tracked(*patterns: str) -> list[str]:
    """Files of the repository, also those not yet added, but none that git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).exists()]


def readme_tree() -> list[str]:
    """Paths of the README's layout: the first word of each line, an indented one below the last folder above it."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"^## Layout\n.*?^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert block, "README.md has no text block under the heading '## Layout'"
    paths, folders = [], []
    for line in block[1].splitlines():
        bare = line.lstrip(" │├└─")
        if not bare:
            continue
        depth, name = len(line) - len(bare), bare.split()[0]
        folders = [(at, folder) for at, folder in folders if at < depth]
        path = "".join(folder for _, folder in folders) + name
        paths.append(path)
        if name.endswith("/"):
            folders.append((depth, name))
    return paths


def test_import_contracts_hold():
    # In a process of its own: import-linter sets up logging anew and silences the loggers it finds.
    done = subprocess.run([BIN / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_files_are_short():
    lengths = {name: (ROOT / name).read_text().count("\n") for name in tracked("*.py")}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_readme_shows_what_is_there():
    names = tracked()
    wrong = [
        path
        for path in readme_tree()
        if not (any(name.startswith(path) for name in names) if path.endswith("/") else path in names)
    ]
    assert wrong == []


def test_readme_shows_every_top_level_folder():
    folders = {name.split("/")[0] + "/" for name in tracked() if "/" in name}
    assert folders <= set(readme_tree())
