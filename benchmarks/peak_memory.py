"""Print the peak memory of this process in MiB: after the imports, after indexing a folder, after reading it all."""

import sys
from pathlib import Path

from pipelines.indexing import index_shards
from pipelines.manifest import load_manifest
from pipelines.reader import read_videos


def main() -> None:
    root = sys.argv[1]
    print(peak_mib())
    index_shards(root)
    print(peak_mib())
    manifest = load_manifest(root)
    assert all(
        isinstance(video, bytes) for video in read_videos(manifest, manifest.take(range(manifest.num_rows)).to_pylist())
    )
    print(peak_mib())


def peak_mib() -> float:
    """From the kernel's record of this address space: ``ru_maxrss`` would also remember the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
