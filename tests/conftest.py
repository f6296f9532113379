"""Fixtures that tests of several packages share."""

from collections.abc import Iterator

import hypothesis
import pytest
import ray
import torch

from pipelines import object_store
from tests import servers
from tests.fault_proxy import FaultProxy, fault_proxy, through

# A loaded machine is slow, not wrong; print_blob shows how to repeat a failing example.
hypothesis.settings.register_profile("fpig", deadline=None, print_blob=True)
hypothesis.settings.load_profile("fpig")

# Two threads that wait for each other take many times as long where other processes keep the cores busy.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One Ray instance with 8 logical CPUs for the whole test run: starting one takes seconds."""
    ray.init("local", num_cpus=8, include_dashboard=False, object_store_memory=512 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """One S3 server for the whole test run."""
    with servers.moto_server(tmp_path_factory.mktemp("moto") / "log") as env:
        yield env


@pytest.fixture
def s3_server(moto: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """An S3 server that this process's clients find by themselves; the URL of its bucket."""
    return servers.use_s3(moto, monkeypatch)


@pytest.fixture(scope="module")
def proxied_s3(moto: dict[str, str]) -> Iterator[FaultProxy]:
    """The S3 server behind a proxy; clients of this process find it and give up after some seconds."""
    quick = object_store.Bounds(silence_s=1, window_s=2, patience_s=3, max_tries=8, pause_s=0.02, max_pause_s=0.1)
    with fault_proxy(moto["AWS_ENDPOINT_URL"]) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_store, "BOUNDS", quick)
        servers.use_s3(through(moto, proxy), patch)
        yield proxy


@pytest.fixture
def faulty_s3(proxied_s3: FaultProxy) -> FaultProxy:
    """``proxied_s3``, which spoils nothing until it is given rules."""
    proxied_s3.forget()
    return proxied_s3
