"""Fixtures that tests of several packages share."""

from collections.abc import Iterator

import hypothesis
import pytest
import ray

from tests import servers

# A loaded machine is slow, not wrong; print_blob shows how to repeat a failing example.
hypothesis.settings.register_profile("fpig", deadline=None, print_blob=True)
hypothesis.settings.load_profile("fpig")


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
