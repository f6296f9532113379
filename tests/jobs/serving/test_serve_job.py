"""The command as a user runs it: it serves, outlives a lost replica, ends when told to; also as a submitted job."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import requests

from jobs.cli import STOPPED
from jobs.serve import Args, main
from jobs.serving import deployment
from pipelines import storage
from pipelines.manifest import load_manifest
from tests.served import caption_of, film, write_world
from tests.servers import BIN, RayHead, answers, end_group, free_ports, ray_head
from tests.test_layers import ROOT
from tests.waiting import wait_until
from tests.worlds import write_model, write_shards

LIMIT_S = 240


def replicas(process: subprocess.Popen) -> list[psutil.Process]:
    """The living replicas among the descendants of a process; Ray names them by what they serve."""
    family = psutil.Process(process.pid).children(recursive=True)
    return [each for each in family if "ServeReplica:fpig-search" in " ".join(each.cmdline()[:1])]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_serving_from_start_to_end(tmp_path):
    corpus, (port,) = write_world(tmp_path), free_ports(1)
    uids = load_manifest(str(tmp_path / "shards")).table["uid"].to_pylist()
    address, out = f"http://127.0.0.1:{port}", tmp_path / "serve.json"
    command = [sys.executable, "-m", "jobs.serve", "--corpus", corpus, "--port", str(port), "--replicas", "2"]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (tmp_path / "log").open("wb") as log:
        command += ["--json", str(out)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        wait_until(lambda: process.poll() is not None or answers(f"{address}/healthz")(), limit_s=LIMIT_S)
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        model_id = requests.get(f"{address}/healthz", timeout=10).json()["model_id"]

        def ask(number):
            query = "" if number == 13 else caption_of(number % 7 % 5)
            return requests.post(f"{address}/search", json={"query": query, "top": 2}, timeout=60)

        with ThreadPoolExecutor(24) as pool:
            found = list(pool.map(ask, range(96)))
        for number, answer in enumerate(found):
            assert answer.status_code == (422 if number == 13 else 200), answer.text
            if number != 13:
                told = answer.json()
                assert told["model_id"] == model_id
                assert caption_of(number % 7 % 5) in told["results"][0]["captions"]
        assert max(answer.json()["timing"]["batch_size"] for answer in found if answer.ok) > 1

        part = requests.get(f"{address}/videos/{uids[3]}", headers={"Range": "bytes=10-59"}, timeout=60)
        assert (part.status_code, part.content) == (206, film(3)[10:60])
        assert requests.get(f"{address}/thumbnails/{uids[3]}.jpg", timeout=60).status_code == 200

        before = wait_until(lambda: len(alive := replicas(process)) == 2 and alive, limit_s=LIMIT_S)
        before[0].send_signal(signal.SIGKILL)
        with ThreadPoolExecutor(4) as pool:
            codes = Counter(answer.status_code for answer in pool.map(ask, range(1, 13)))
        assert codes[200] >= 12 - 4, codes  # what the lost one was answering is lost with it
        wait_until(lambda: len(replicas(process)) == 2, limit_s=LIMIT_S)
        assert {ask(number).status_code for number in range(12)} == {200}
        counted = requests.get(f"{address}/metrics", timeout=60).text
        served = re.search(r'^fpig_requests_total\{route="/search",status="200"\} (\S+)$', counted, re.MULTILINE)
        assert served
        assert float(served[1]) >= 95 + codes[200]

        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(requests.get, f"{address}/tokens/{uids[1]}.png", timeout=60)
            time.sleep(0.2)  # so that it has begun when the end is asked for
            process.send_signal(signal.SIGTERM)
            assert last.result().status_code == 200
        assert process.wait(timeout=LIMIT_S) == STOPPED, (tmp_path / "log").read_text()[-3000:]
        assert json.loads(out.read_text())["model_id"] == model_id
    finally:
        end_group(process)


def ray_job(head: RayHead, *words: str) -> str:
    line = [str(BIN / "ray"), "job", words[0], "--address", head.dashboard, *words[1:]]
    done = subprocess.run(line, env=head.env, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_submitted_job_serves_a_bucket_until_it_is_stopped(moto, s3_server, tmp_path):
    root = f"{s3_server}/served"
    model_id = write_model(tmp_path / "model")
    write_shards(tmp_path / "shards", 6, film=film)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            storage.upload(file, f"{root}/{file.relative_to(tmp_path)}")
    uids = load_manifest(f"{root}/shards").table["uid"].to_pylist()
    (port,) = free_ports(1)
    address, package = f"http://127.0.0.1:{port}", ["--working-dir", str(ROOT), "--", "python", "-m"]
    # Not tmp_path: Ray's sockets do not fit below a path that long.
    with tempfile.TemporaryDirectory(prefix="ray") as folder, ray_head(Path(folder), more_env=moto) as head:
        embed = ["--model", f"{root}/model", "--manifest", f"{root}/shards", "--out", f"{root}/corpus"]
        ray_job(head, "submit", *package, "jobs.embed_corpus", *embed, "--batch-size", "4", "--tracking", "none")
        serve = ["--corpus", f"{root}/corpus", "--port", str(port)]
        ray_job(head, "submit", "--submission-id", "search", "--no-wait", *package, "jobs.serve", *serve)
        wait_until(answers(f"{address}/healthz"), limit_s=LIMIT_S)

        found = requests.post(f"{address}/search", json={"query": caption_of(1), "top": 6}, timeout=60).json()
        assert found["model_id"] == model_id
        assert {each["uid"] for each in found["results"]} == set(uids)
        alike = requests.post(f"{address}/search", json={"like": uids[2], "top": 2}, timeout=60).json()
        assert uids[2] not in {each["uid"] for each in alike["results"]}
        part = requests.get(f"{address}/videos/{uids[3]}", headers={"Range": "bytes=10-59"}, timeout=60)
        assert (part.status_code, part.content) == (206, film(3)[10:60])
        assert requests.get(f"{address}/thumbnails/{uids[3]}.jpg", timeout=60).status_code == 200

        ray_job(head, "stop", "search")
        assert "stopped" in ray_job(head, "status", "search").lower()
        wait_until(lambda: not answers(f"{address}/healthz")(), limit_s=LIMIT_S)
        told = ray_job(head, "logs", "search")
        assert "answering what has come" in told


def test_an_address_that_the_cluster_does_not_listen_at_is_refused(monkeypatch, tmp_path):
    listening = SimpleNamespace(http_config=SimpleNamespace(host="192.0.2.7", port=8000))
    monkeypatch.setattr(deployment, "_get_global_client", lambda **_: listening)
    args = Args(corpus=write_world(tmp_path), port=8001)
    with pytest.raises(ValueError, match=r"listens at 192\.0\.2\.7 port 8000; give that address"):
        deployment.start(args.application(), host=args.host, port=args.port)


def test_wrong_requests_start_nothing(tmp_path):
    corpus = write_world(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ValueError, match="another --port"):
        main(Args(corpus=corpus, port=server.getsockname()[1]))
    with pytest.raises(ValueError, match="--corpus and --index"):
        Args()
    with pytest.raises(ValueError, match=r"--allowed-hosts a\*b"):
        Args(corpus=corpus, allowed_hosts=("a*b",))
    with pytest.raises(ValueError, match="port=0"):
        Args(corpus=corpus, port=0)
    with pytest.raises(ValueError, match="embed_corpus"):
        main(Args(corpus=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="no manifest"):
        main(Args(corpus=corpus, manifest=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="give another --host"):
        main(Args(corpus=corpus, host="203.0.113.1"))
