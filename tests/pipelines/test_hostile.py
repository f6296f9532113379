"""Hostile files end as one row with a reason, each by itself: nothing they name is opened, nothing they claim is taken.

Further kinds of damage are in ``test_decode`` (zero frames, rotation, cut files), ``test_tarwalk`` and ``test_images``.
"""

import contextlib
import functools
import gzip
import io
import pickle
import tarfile
from pathlib import Path

import av
import pyarrow as pa
import pytest
from av.error import FFmpegError

from pipelines.annotations import Record
from pipelines.embed import EmbedSettings, embed_parts, finish_embedding, plan_embedding
from pipelines.guard import run_guarded
from pipelines.guarded import decode_guarded
from pipelines.indexing import IndexSettings, index_shards
from pipelines.limits import VideoLimits
from pipelines.manifest import MANIFEST_SCHEMA, load_manifest, save_manifest
from pipelines.part_files import Tally
from pipelines.quarantine import SampleError
from pipelines.shard_pool import write_here
from pipelines.shard_set import claim_set, finish_set
from pipelines.shards import plan_shard_set
from pipelines.sources import Source, find_sources
from pipelines.storage import check_url
from pipelines.transcode import Encoding
from pipelines.verify import verify_corpus
from tests.pipelines import hostile, victims
from tests.pipelines.hostile import Canary
from tests.pipelines.videos import make_video
from tests.rows import videos_of_rows
from tests.worlds import PREPROCESS, write_model, write_shards

LIMITS = VideoLimits(max_cpu_s=20, max_memory_bytes=256 << 20)
PIPE = "pipe:touch {path}; touch {path} | $(touch {path})"
SOUND = {"claim.mp4", "flat.png", "subtitles.avi", "../../up.mp4", "/abs/olute.mp4"}
LOST = {
    "bombs/header.mov": "no_stream",
    "bombs/h264.mp4": "bad_stream",
    "bombs/vp8.webm": "bad_stream",
    "bombs/flat.png": "too_large",
    "days.mp4": "too_large",
    "external.mov": "no_frames",
    "gzip.mp4": "bad_container",
    "header.mp4": "no_stream",
    "pickle.mp4": "bad_container",
    "sound.mp4": "no_stream",
}


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    canary = Canary(tmp_path_factory.mktemp("canary"))
    yield canary
    canary.close()


@pytest.fixture
def untouched(canary):
    """Nobody came to the canary, and no pickle was opened, when the test is over."""
    assert canary.touched() == set()
    yield
    assert canary.touched() == set()
    assert not marker(canary).exists()


def marker(canary):
    return canary.path.with_name("opened")


@pytest.fixture(scope="module")
def files(canary):
    """Bytes by name; what becomes of each stands in ``SOUND`` and ``LOST``, of playlists in ``lost``."""
    sound = make_video(num_frames=10)
    files = {
        "claim.mp4": hostile.ten_hours_claimed(),
        "flat.png": hostile.flat_png(2000),
        "subtitles.avi": hostile.subtitled_avi(hostile.playlists(canary.path, canary.port)["hls"]),
        "../../up.mp4": sound,
        "/abs/olute.mp4": sound,
        "bombs/header.mov": hostile.compressed_header(64 << 20),
        "bombs/h264.mp4": hostile.giant_h264(),
        "bombs/vp8.webm": hostile.giant_picture(),
        "bombs/flat.png": hostile.flat_png(12_000),
        "days.mp4": hostile.days_between_frames(),
        "external.mov": hostile.external_media(canary.path),
        "gzip.mp4": gzip.compress(sound),
        "header.mp4": sound[: sound.index(b"moov") + 200],
        "pickle.mp4": hostile.pickled(marker(canary)),
        "sound.mp4": hostile.sound_alone(),
    }
    assert set(files) == SOUND | set(LOST)
    for kind, text in hostile.playlists(canary.path, canary.port).items():
        files |= {f"{kind}.mp4": text, f"{kind}/x.mkv": text, f"{kind}/y.avi": text}
    return files


def lost(files):
    """Reason by name, of the files that cannot be decoded."""
    return {name: LOST.get(name, "bad_container") for name in files if name not in SOUND}


def add(tar, name, data=b"", *, kind=tarfile.REGTYPE, target=""):
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(data), kind, target
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def shards(canary, files, tmp_path_factory):
    """A shard set of all files, and of members that are no files: links, pickles."""
    root = tmp_path_factory.mktemp("shards") / "deep" / "down"
    root.mkdir(parents=True)
    evil = hostile.pickled(marker(canary))
    caption = PIPE.format(path=marker(canary)).encode()
    with tarfile.open(root / "a.tar", "w") as tar:
        for name, data in files.items():
            key = name.rpartition(".")[0]
            add(tar, name.replace(key, unique(name)), data)
            add(tar, f"{unique(name)}.txt", caption)
        for suffix in ("pkl", "pickle", "pth", "pyd", "npy"):
            add(tar, f"evil.{suffix}", evil)
        for key, kind in (("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE)):
            add(tar, f"{key}.mp4", kind=kind, target=str(canary.path))
            add(tar, f"{key}.txt", caption)
        add(tar, "evil_json.mp4", files["claim.mp4"])
        add(tar, "evil_json.json", evil)
    return root


def unique(name):
    """A key: two files may differ in their suffixes alone."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{suffix}"


INDEXED = {"soft": "no_video", "hard": "no_video", "evil_json": "bad_json"}


def test_the_index_names_what_is_no_sample(shards, files, untouched):
    report = index_shards(str(shards))
    assert report.reasons == {"no_video": 2, "bad_json": 1}
    assert (report.num_ok, report.num_ignored, report.bad_shards) == (len(files), 5 + 2, [])
    assert sorted(path.name for path in shards.parent.parent.iterdir()) == ["deep"]
    for row in load_manifest(str(shards)).table.to_pylist():
        assert row["status"] == INDEXED.get(row["key"], "ok")


def test_each_file_is_decoded_or_told_within_its_means(shards, files, untouched):
    index_shards(str(shards))
    manifest = load_manifest(str(shards))
    rows = manifest.table.to_pylist()
    codes = {}
    for row, video in zip(rows, videos_of_rows(manifest, range(len(rows))), strict=True):
        try:
            decode_guarded(row, video, preprocess=PREPROCESS, limits=LIMITS)
        except SampleError as error:
            codes[row["key"]] = error.code
    assert codes == {unique(name): code for name, code in lost(files).items()} | INDEXED
    child = run_guarded(victims.pid, b"")
    peak_kib = int(Path(f"/proc/{child}/status").read_text().split("VmHWM:")[1].split()[0])
    assert peak_kib < 320 << 10


def test_a_compressed_header_does_not_unpack_beyond_the_limit(files, untouched):
    limits = VideoLimits(max_memory_bytes=32 << 20)
    row = {"video_suffix": "mov", "start_s": None, "end_s": None}
    with pytest.raises(SampleError, match="too_large"):
        decode_guarded(row, files["bombs/header.mov"], preprocess=PREPROCESS, limits=limits)


def test_probing_opens_nothing_else(shards, files, untouched):
    report = index_shards(str(shards), IndexSettings(probe=True, num_workers=1))
    assert report.num_ok == len(files)
    probes = {row["key"]: row["probe"] for row in load_manifest(str(shards)).table.to_pylist()}
    assert {probes[unique(f"{kind}.mp4")] for kind in hostile.playlists("", 0)} == {"bad_container"}
    told = ("bombs/header.mov", "bombs/flat.png", "subtitles.avi")
    assert [probes[unique(name)] for name in told] == ["no_stream", "too_large", "ok"]


def test_transcoding_tells_what_it_leaves_out(files, tmp_path, untouched):
    names = [name for name in files if not name.startswith((".", "/")) and not name.endswith(".png")]
    sources = []
    for name in names:
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
        sources.append(Source(Record(name, name, "all", (), None, None), str(path), len(files[name]), ""))
    tasks = plan_shard_set(sources, str(tmp_path / "out"), shard_bytes=1 << 30, encoding=Encoding(short_side=16))
    claim_set(tasks)
    list(write_here(tasks))
    rejected = {reject.sample: reject.reason for reject in finish_set(tasks).rejected}
    assert rejected == {name: code for name, code in lost(files).items() if name in names}


def test_an_embedding_counts_every_hostile_file_once(ray_local, shards, files, canary, tmp_path, untouched):
    index_shards(str(shards))
    manifest, model = load_manifest(str(shards)), tmp_path / "model"
    write_model(model)
    settings = EmbedSettings(part_rows=64, batch_size=8, num_actors=1, cpus_per_actor=1.5)
    plan = plan_embedding(manifest, model_url=str(model), out_url=str(tmp_path / "corpus"), settings=settings)
    meta = finish_embedding(plan, Tally(plan.parts, embed_parts(plan, settings)), lineage={})
    reasons = [*lost(files).values(), *INDEXED.values()]
    assert meta["num_embedded"] == len(SOUND)
    assert meta["rejected"] == {reason: reasons.count(reason) for reason in reasons}
    assert verify_corpus(str(tmp_path / "corpus"), manifest).problems == ()


@pytest.mark.parametrize("location", ["pipe:cat x |", "http://127.0.0.1/x.mp4", "concat:a|b", "file:a", "a::b"])
def test_locations_that_are_commands_or_hosts_are_refused(tmp_path, location):
    with pytest.raises(ValueError, match="wanted"):
        check_url(location)
    for url in (location, f"{location}/manifest.parquet"):
        with pytest.raises(ValueError, match="wanted"):
            load_manifest(url)
    (tmp_path / "list.txt").write_text(f"{location}\n")
    with pytest.raises(ValueError, match="wanted"):
        find_sources(str(tmp_path / "list.txt"), "")


@pytest.mark.parametrize("shard", ["pipe:cat canary.mp4", "http://127.0.0.1/a.tar", "x::/a.tar"])
def test_a_manifest_that_names_commands_or_hosts_reads_nothing(tmp_path, untouched, shard):
    write_shards(tmp_path / "shards", 1)
    (row,) = load_manifest(str(tmp_path / "shards")).table.to_pylist()
    table = pa.Table.from_pylist([row | {"shard": shard}], schema=MANIFEST_SCHEMA)
    manifest = save_manifest(str(tmp_path / "shards"), table)
    if "::" in shard or "://" in shard:
        with pytest.raises(ValueError, match=r"wanted|not known"):
            next(videos_of_rows(manifest, [0]))
        return
    (found,) = videos_of_rows(manifest, [0])
    assert isinstance(found, SampleError)
    assert found.code == "missing_shard"


@pytest.mark.parametrize(
    ("kind", "options", "came"),
    [
        ("hls", {}, {"socket"}),
        ("concat", {"safe": "0"}, {"file", "socket"}),
        ("mov", {"enable_drefs": "1", "use_absolute_path": "1"}, {"file"}),
    ],
)
def test_a_careless_player_does_touch_the_canary(canary, files, kind, options, came):
    """Negative control: the files are as dangerous as they say."""
    data = files[{"hls": "hls.mp4", "concat": "ffconcat.mp4", "mov": "external.mov"}[kind]]
    canary.touched()
    opened = functools.partial(av.open, io.BytesIO(data), mode="r", format=kind, options=options, timeout=0.5)
    with contextlib.suppress(FFmpegError), opened() as container:
        for _ in container.demux():
            pass
    assert canary.touched() == came


def test_a_careless_reader_does_open_the_pickle(canary, files):
    """Negative control."""
    pickle.loads(files["pickle.mp4"])  # noqa: S301
    assert marker(canary).is_dir()
    marker(canary).rmdir()
