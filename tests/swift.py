"""OpenStack Swift with its S3 interface on loopback: a store on disk that checks secrets, for slow tests."""

import contextlib
import getpass
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.servers import answers, free_ports, make_bucket, running, s3_env

VERSION = "2.38.3"
BACKENDS = ("account", "container", "object")
SECRET = "for-tests-only"  # noqa: S105 - of a server that lives as long as one test

RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *ports = sys.argv[1:]
for name, port in zip(("account", "container", "object"), map(int, ports)):
    place = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
    ring = RingBuilder(part_power=6, replicas=1, min_part_hours=1)
    ring.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "disk", "meta": "", **place})
    ring.rebalance(seed=0)
    ring.get_ring().save(f"{folder}/{name}.ring.gz")
"""

COMMON = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {etc}
workers = 0
log_udp_host = 127.0.0.1
log_udp_port = 9
"""

BACKEND = """devices = {devices}
mount_check = false
fallocate_reserve = 0
recon_cache_path = {etc}
conn_timeout = 5
node_timeout = 60

[pipeline:main]
pipeline = healthcheck {name}-server

[filter:healthcheck]
use = egg:swift#healthcheck

[app:{name}-server]
use = egg:swift#{name}
"""

FILTERS = ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "copy", "slo", "dlo", "symlink")
PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth copy slo dlo symlink proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 5
node_timeout = 60
recoverable_node_timeout = 60
error_suppression_interval = 5

[filter:s3api]
use = egg:swift#s3api
location = us-east-1

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
"""


def install() -> Path:
    """The folder of Swift's programs, in an environment of its own: it pins other versions than ours."""
    home = Path(os.environ.get("FPIG_SWIFT_HOME") or Path.home() / ".cache" / "fpig-swift")
    programs = home / "bin"
    if not (home / VERSION).exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"swift=={VERSION}"], check=True)
        (home / VERSION).touch()
    return programs


def configure(folder: Path, ports: dict[str, int], programs: Path) -> None:
    """Rings and configuration of one replica on one folder."""
    etc, devices = folder / "etc", folder / "devices"
    etc.mkdir()
    (devices / "disk").mkdir(parents=True)
    (etc / "swift.conf").write_text("[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n")
    numbers = [str(ports[name]) for name in BACKENDS]
    subprocess.run([programs / "python", "-c", RINGS, etc, *numbers], check=True, capture_output=True)
    user = getpass.getuser()
    for name in BACKENDS:
        common = COMMON.format(port=ports[name], user=user, etc=etc)
        (etc / f"{name}.conf").write_text(common + BACKEND.format(name=name, devices=devices, etc=etc))
    filters = "".join(f"\n[filter:{name}]\nuse = egg:swift#{name}\n" for name in FILTERS)
    common = COMMON.format(port=ports["proxy"], user=user, etc=etc)
    (etc / "proxy.conf").write_text(common + PROXY.format(secret=SECRET) + filters)


class Swift:
    """The processes of one store below ``folder``; each can be killed and started again."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack):
        self._folder, self._stack, self._programs = folder, stack, install()
        names: tuple[str, ...] = (*BACKENDS, "proxy")
        self._ports: dict[str, int] = dict(zip(names, free_ports(len(names)), strict=True))
        configure(folder, self._ports, self._programs)
        self._processes: dict[str, subprocess.Popen] = {}
        for name in names:
            self.start(name)

    @property
    def env(self) -> dict[str, str]:
        """The environment that leads to the store."""
        return s3_env(f"http://127.0.0.1:{self._ports['proxy']}", key="test:tester", secret=SECRET)

    def start(self, name: str) -> None:
        """Start the server ``name`` (of ``BACKENDS``, or proxy), and wait until it answers."""
        command = [str(self._programs / f"swift-{name}-server"), str(self._folder / "etc" / f"{name}.conf"), "-v"]
        alive = answers(f"http://127.0.0.1:{self._ports[name]}/healthcheck")
        server = running(command, env=dict(os.environ), log=self._folder / f"{name}.log", ready=alive)
        self._processes[name] = self._stack.enter_context(server)

    def kill(self, name: str) -> None:
        """SIGKILL, in the midst of whatever it does."""
        os.killpg(self._processes[name].pid, signal.SIGKILL)
        self._processes[name].wait(timeout=10)


@contextlib.contextmanager
def swift_parts(folder: Path) -> Iterator[Swift]:
    """A store below ``folder`` (on ext4 or XFS) with one bucket."""
    with contextlib.ExitStack() as stack:
        swift = Swift(folder, stack)
        make_bucket(swift.env)
        yield swift


@contextlib.contextmanager
def swift_server(folder: Path) -> Iterator[dict[str, str]]:
    """The same; yields the environment that leads to it."""
    with swift_parts(folder) as swift:
        yield swift.env
