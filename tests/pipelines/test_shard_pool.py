"""The same shards whoever writes them, and after whatever kill."""

import functools
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from pipelines.shard_pool import SMALL_BYTES, fits_here, write_here, write_on_ray
from pipelines.shard_set import Sample, ShardTask, claim_set, find_receipts, finish_set


def make(number, *, num_samples=3):
    for index in range(num_samples):
        yield Sample(f"{number:03d}{index:03d}", {"mp4": bytes([number]) * 700, "json": b"{}"})


def make_and_die(number, *, marker):
    """The first attempt is killed in the middle of the shard."""
    for sample in make(number):
        yield sample
        if not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def write_all(tasks):
    list(write_here(tasks))


def plan(out, *, num_shards=6, num_bytes=0, **options):
    return [
        ShardTask(
            out_url=str(out),
            name=f"shard-{number:06d}.tar",
            inputs=f"inputs {number}",
            num_samples=3,
            num_bytes=num_bytes,
            make=functools.partial(make_and_die if options else make, number, **options),
        )
        for number in range(num_shards)
    ]


def files(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ray_writes_what_one_process_writes(tmp_path, ray_local, num_workers):
    for name, write in [
        ("here", write_here),
        ("ray", functools.partial(write_on_ray, num_workers=num_workers)),
    ]:
        tasks = plan(tmp_path / name)
        claim_set(tasks)
        assert {receipt.name for receipt in write(tasks)} == {task.name for task in tasks}
        finish_set(tasks)
    assert files(tmp_path / "here") == files(tmp_path / "ray")


def test_a_killed_writer_leaves_no_half_shard_and_its_task_is_done_again(tmp_path, ray_local):
    tasks = plan(tmp_path / "x", num_shards=2, marker=str(tmp_path / "died"))
    assert len(list(write_on_ray(tasks, num_workers=1))) == 2
    assert list((tmp_path / "x").glob(".draft-*"))
    finish_set(tasks)
    assert not list((tmp_path / "x").glob(".draft-*"))
    list(write_here(plan(tmp_path / "y", num_shards=2)))
    finish_set(plan(tmp_path / "y", num_shards=2))
    whole = {name: data for name, data in files(tmp_path / "y").items() if name != "_PLAN.json"}
    assert files(tmp_path / "x") == whole


def test_a_killed_run_is_finished_by_the_next(tmp_path):
    tasks = plan(tmp_path / "x", num_shards=3, marker=str(tmp_path / "died"))
    (tmp_path / "x").mkdir()
    process = multiprocessing.get_context("spawn").Process(target=write_all, args=(tasks,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert find_receipts(tasks) == {}
    assert not list((tmp_path / "x").glob("*.tar"))
    list(write_here(tasks))
    assert finish_set(tasks).num_samples == 9


@pytest.mark.parametrize(
    ("num_shards", "num_bytes", "num_workers", "is_heavy", "here"),
    [
        (1, SMALL_BYTES, 0, True, True),
        (2, SMALL_BYTES // 4, 0, False, True),
        (2, SMALL_BYTES // 4, 0, True, False),
        (2, SMALL_BYTES, 0, False, False),
        (2, 1, 2, False, False),
        (9, SMALL_BYTES, 1, True, True),
    ],
)
def test_a_little_work_starts_no_cluster(tmp_path, num_shards, num_bytes, num_workers, is_heavy, here):
    tasks = plan(tmp_path, num_shards=num_shards, num_bytes=num_bytes)
    assert fits_here(tasks, num_workers, is_heavy=is_heavy) == here
