"""Goals 1, 4, 5: decoding beside PyAV and other libraries, reading shards beside tarfile and Ray Data, peak memory."""

import dataclasses
import hashlib
import logging
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.clips import make_clip, write_random_shards
from benchmarks.decoders import Decoder, decode_with, others, with_pyav
from benchmarks.measure import Result, Spread, alternate, is_quick, machine, ratios, save
from fpig_core.preprocess import Preprocess
from pipelines.decode import decode_frames
from pipelines.indexing import index_shards
from pipelines.manifest import load_manifest
from pipelines.reader import Verify, read_videos

MIB = 1 << 20


def main() -> None:
    quick, where = is_quick(), machine()
    repeats = 1 if quick else 7
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for clip in CLIPS:
            results += decoding(clip, num_frames=25 if quick else clip.num_frames, repeats=repeats)
        results += peak_memory(Path(folder), small=4 if quick else 75, large=16 if quick else 300, repeats=repeats)
        results += reading(Path(folder) / "shards", videos_per_shard=2 if quick else 64, repeats=repeats)
    save("data", results, machine=where, quick=quick)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """``shot_s``: seconds between two cuts, at which x264 sets a key frame of its own; None: one shot."""

    num_frames: int = 250
    gop: int = 250
    shot_s: float | None = None
    width: int = 320
    height: int = 240

    @property
    def words(self) -> str:
        cuts = "one shot" if self.shot_s is None else f"a cut every {self.shot_s:g} s"
        return f"{self.width} × {self.height}, {cuts}, key frames at most {self.gop} apart"


CLIPS = (
    Clip(),
    Clip(gop=12),
    Clip(num_frames=500, shot_s=4),
    Clip(width=640, height=360),
    Clip(width=640, height=360, gop=12),
    Clip(width=640, height=360, num_frames=500, shot_s=4),
)


def decoding(clip: Clip, *, num_frames: int, repeats: int) -> list[Result]:
    """Against PyAV, with identical frames; and against other libraries, whose colours and edges differ a little."""
    data = make_clip(gop=clip.gop, num_frames=num_frames, shot_s=clip.shot_s, width=clip.width, height=clip.height)
    preprocess, found, libraries = Preprocess(), {}, others(data)

    def by_ours() -> None:
        found["ours"] = decode_frames(data, suffix="mp4", preprocess=preprocess)

    def by(name: str, decoder: Decoder) -> None:
        found[name] = decode_with(decoder, data, num_frames=num_frames, preprocess=preprocess)

    ways = {name: lambda name=name, way=way: by(name, way) for name, way in {"PyAV": with_pyav, **libraries}.items()}
    timings = alternate({**ways, "ours": by_ours}, repeats=repeats)
    np.testing.assert_array_equal(found["PyAV"], found["ours"])
    what = f"decode {preprocess.num_frames} of {num_frames} frames, {clip.words}: time of"
    results = [
        Result(
            goal=1,
            what=f"{what} {'a plain PyAV loop' if name == 'PyAV' else name} ÷ ours",
            wanted="CPU: floor 1.4, goal 1.8" if name == "PyAV" else "no goal; for comparison",
            figures=ratios(timings[name], timings["ours"]),
            sides={name: timings[name], "ours": timings["ours"]},
        )
        for name in ways
    ]
    for result, name in zip(results, ways, strict=True):
        if name in libraries:
            difference = np.abs(found[name].astype(int) - found["ours"]).mean()
            result.sides["mean difference of a pixel, of 255"] = f"{difference:.2f}"
    return results


def reading(root: Path, *, videos_per_shard: int, repeats: int) -> list[Result]:
    """All videos of four shards, from the page cache, each way up to bytes in this process."""
    write_random_shards(root, num_shards=4, videos_per_shard=videos_per_shard)
    index_shards(str(root))
    manifest, wanted_bytes = load_manifest(str(root)), 4 * videos_per_shard * MIB
    shards = [str(path) for path in sorted(root.glob("*.tar"))]

    def by_tarfile() -> None:
        assert sum(map(len, tar_videos(shards))) == wanted_bytes

    def by_tarfile_hashing() -> None:
        assert len({hashlib.sha256(video).digest() for video in tar_videos(shards)}) == manifest.num_rows

    def by_ours(verify: Verify) -> None:
        videos = read_videos(manifest, manifest.take(range(manifest.num_rows)).to_pylist(), verify=verify)
        assert sum(len(video) for video in videos if isinstance(video, bytes)) == wanted_bytes

    def by_ray() -> None:
        dataset = ray.data.read_webdataset(shards, decoder=None)
        batches: Iterable[Any] = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        assert sum(len(video) for batch in batches for video in batch["mp4"].to_numpy()) == wanted_bytes

    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=2 << 30,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ways = {
        "tarfile": by_tarfile,
        "tarfile+sha256": by_tarfile_hashing,
        "ray": by_ray,
        "ours": lambda: by_ours("header"),
        "ours+sha256": lambda: by_ours("sha256"),
    }
    timings = alternate(ways, repeats=repeats)
    ray.shutdown()
    what = f"read {4 * videos_per_shard} videos of 1 MiB from 4 shards: our bytes/s ÷ "
    against = (
        ("ours", "tarfile", "a plain tarfile loop", "wall: floor 0.8, goal 0.95"),
        ("ours", "ray", "read_webdataset(decoder=None), two CPUs", "wall: floor 1.2, goal 2"),
        ("ours+sha256", "tarfile+sha256", "a tarfile loop, both with the sha256", "no goal; for comparison"),
        (
            "ours+sha256",
            "ray",
            "read_webdataset(decoder=None), two CPUs, ours with the sha256",
            "no goal; for comparison",
        ),
    )
    results = []
    for ours, other, label, wanted in against:
        figures = ratios(timings[other], timings[ours])
        if other == "ray":
            del figures["CPU"]  # Ray's work is done by other processes.
        sides = {other: timings[other], ours: timings[ours]}
        results.append(Result(goal=4, what=what + label, wanted=wanted, figures=figures, sides=sides))
    return results


def tar_videos(shards: list[str]) -> Iterator[bytes]:
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".mp4"):
                    opened = tar.extractfile(member)
                    assert opened is not None
                    yield opened.read()


def peak_memory(folder: Path, *, small: int, large: int, repeats: int) -> list[Result]:
    """Index a shard of ``small`` and one of ``large`` MiB and read all their videos, each time in a new process."""
    peaks: dict[int, list[tuple[float, float, float]]] = {small: [], large: []}
    for num_videos in peaks:
        write_random_shards(folder / str(num_videos), num_shards=1, videos_per_shard=num_videos)
    for _ in range(min(repeats, 5)):
        for num_videos, found in peaks.items():
            command = [sys.executable, "-m", "benchmarks.peak_memory", str(folder / str(num_videos))]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            imported, indexed, read = map(float, printed.split())
            found.append((imported, indexed, read))
    return [
        Result(
            goal=5,
            what=f"peak memory of a process that {does} one shard of {num_videos} MiB, videos of 1 MiB",
            wanted="goal: at most 256 MiB and one sample, whatever the shard's size",
            figures={"MiB": Spread.of([peak[column] for peak in found])},
            sides={"of it after the imports alone": f"{Spread.of([peak[0] for peak in found]).median:.0f} MiB"},
        )
        for column, does in ((1, "indexes"), (2, "indexes and then reads"))
        for num_videos, found in peaks.items()
    ]


if __name__ == "__main__":
    main()
