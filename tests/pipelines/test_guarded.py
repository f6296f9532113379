"""Guarded, the same comes out; and a crash in FFmpeg costs one sample of a stream, not its worker."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from fpig_core.preprocess import Preprocess
from fpig_core.schedule import Phase, Schedule
from pipelines import guarded
from pipelines.decode import decode_sample
from pipelines.frame_file import pack_frames
from pipelines.guard import run_guarded
from pipelines.guarded import decode_guarded, probe_guarded, transcode_guarded
from pipelines.manifest import Manifest
from pipelines.plan import Plan
from pipelines.probe import probe_media
from pipelines.quarantine import SampleError
from pipelines.stream import NOT_A_SAMPLE, StreamSource, load_block
from pipelines.transcode import Encoding, transcode
from tests.pipelines import victims
from tests.pipelines.hostile import flat_png
from tests.pipelines.test_guard import is_alive
from tests.pipelines.videos import make_video
from tests.worlds import PREPROCESS, write_shards

SMALL = Preprocess(num_frames=5, size=16)
DATA = make_video(num_frames=30)
FRAMES = pack_frames(
    np.random.default_rng(0).integers(0, 256, (9, 3, 16, 16), np.uint8), codec="raw", resize_mode="squash"
)


@pytest.mark.parametrize(("suffix", "data"), [("mp4", DATA), ("png", flat_png(50)), ("frames", FRAMES)])
def test_frames_are_those_of_the_plain_decoder(suffix, data):
    row = {"video_suffix": suffix, "start_s": 1.0 if suffix == "mp4" else None, "end_s": None, "caption": "of no use"}
    for seed in (None, 0, 1):
        plain, behind_glass = (
            decode(row, data, preprocess=SMALL, rng=None if seed is None else np.random.default_rng(seed))
            for decode in (decode_sample, decode_guarded)
        )
        assert (behind_glass.dtype, behind_glass.flags.c_contiguous) == (np.uint8, True)
        np.testing.assert_array_equal(behind_glass, plain)


def test_what_was_not_read_keeps_its_error():
    with pytest.raises(SampleError, match="short_read"):
        decode_guarded({}, SampleError("short_read"), preprocess=SMALL)


def test_stored_pixels_need_no_child(monkeypatch):
    monkeypatch.setattr(guarded, "run_guarded", None)
    row = {"video_suffix": "frames", "start_s": None, "end_s": None}
    assert decode_guarded(row, FRAMES, preprocess=SMALL).shape == (5, 3, 16, 16)


def test_transcoding_and_probing_are_those_of_this_process():
    encoding = Encoding(short_side=16)
    got = transcode_guarded(DATA, suffix="mp4", encoding=encoding, start_s=1.0)
    assert got == transcode(DATA, suffix="mp4", encoding=encoding, start_s=1.0)

    def read(start, length):
        return DATA[start : start + length]

    for num_bytes in (len(DATA), 100):
        probe = probe_guarded(read, num_bytes=num_bytes, suffix="mp4")
        assert probe == probe_media(read, num_bytes=num_bytes, suffix="mp4")


CRASH = b"CRASH" * 100
SITECUSTOMIZE = """
import os, signal
import av
_open = av.open
def open(file, *args, **kwargs):
    if file.getvalue().startswith(b"CRASH"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return _open(file, *args, **kwargs)
av.open = open
"""


@ray.remote(num_cpus=0, max_restarts=0)
class Worker:
    def load(self, source, block):
        columns = load_block(source, block)
        return os.getpid(), columns["uid"].tolist(), columns["reason"].tolist()

    def child(self):
        return run_guarded(victims.pid, b"")


def test_a_crash_costs_its_sample_and_not_the_worker(ray_local, tmp_path):
    """FFmpeg is made to crash for one video; it would kill the worker, too, if that decoded."""
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    crashing = 5
    film = make_video(num_frames=4)
    manifest = write_shards(tmp_path / "shards", 16, film=lambda number: CRASH if number == crashing else film)
    schedule = Schedule(num_train=16, num_val=16, global_batch=8, epochs=1)
    plan = Plan(schedule=schedule, seed=0, digest=manifest.digest)
    manifests: dict[Phase, Manifest] = {"train": manifest, "val": manifest}
    source = StreamSource(plan=plan, preprocess=PREPROCESS, manifests=manifests, num_workers=2)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    worker = Worker.options(runtime_env={"env_vars": {"PYTHONPATH": path}}).remote()
    blocks = ray.get([worker.load.remote(source, block) for block in range(schedule.num_batches * 2)])
    (process,) = {process for process, _, _ in blocks}
    reason_of = {}
    for _, uids, reasons in blocks:
        reason_of |= {uid: reason for uid, reason in zip(uids, reasons, strict=True) if reason != NOT_A_SAMPLE}
    uid = manifest.table.to_pylist()[crashing]["uid"]
    assert reason_of == {row["uid"]: "" for row in manifest.table.to_pylist()} | {uid: "decoder_crashed"}

    child = ray.get(worker.child.remote())
    os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)
