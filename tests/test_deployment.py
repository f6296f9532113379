"""The deployment files: valid by Ray's own check, pinned, without secrets, and naming commands that exist."""

import copy
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from jobs import cli, serve
from tests.test_layers import ROOT, tracked

RAYJOBS = sorted((ROOT / "cluster" / "manifests").glob("rayjob-*.yaml"))
DEPLOYMENT = [ROOT / "ray_cluster.yaml", *sorted((ROOT / "cluster" / "manifests").glob("*.yaml"))]
LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines())
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|ACCESS_KEY")


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


@pytest.fixture(params=RAYJOBS, ids=lambda path: path.stem)
def spec(request) -> dict:
    document = yaml.safe_load(request.param.read_text())
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
    return document["spec"]


def pods(spec: dict) -> list[dict]:
    """Pod specifications of the head, of every worker group and of the submitter."""
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups] + [spec["submitterPodTemplate"]["spec"]]


def test_rayservice_is_valid_by_serves_own_schema_and_names_our_options():
    document = yaml.safe_load((ROOT / "cluster" / "manifests" / "rayservice-search.yaml").read_text())
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayService")
    cluster = document["spec"]["rayClusterConfig"]
    assert cluster["rayVersion"] == LOCK["ray"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    config = ServeDeploySchema.model_validate(yaml.safe_load(document["spec"]["serveConfigV2"]))
    (application,) = config.applications
    module, _, function = application.import_path.partition(":")
    assert getattr(importlib.import_module(module), function) is serve.from_config
    serve.Args(**application.args)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        check_pod(group["template"]["spec"])


def check_command(command: str) -> None:
    """The command names a job, and the job understands its options (where its module is there)."""
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"]
    job = words[2].removeprefix("jobs.")
    assert job in cli.JOBS
    if not importlib.util.find_spec(f"jobs.{job}"):
        return
    module = importlib.import_module(f"jobs.{job}")
    if hasattr(module, "read_args"):
        module.read_args(words[3:])
    else:
        cli.parse(module.Args, words[3:], prog=job, example="")


def test_cluster_is_valid_by_rays_own_check(cluster):
    validate_config(prepare_config(copy.deepcopy(cluster)))
    with pytest.raises(Exception, match="no_such_field"):
        validate_config(prepare_config({**cluster, "no_such_field": 1}))


def test_cluster_asks_for_a_token_and_opens_no_port(cluster):
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        start = next(command for command in commands if "ray start" in command)
        assert "RAY_AUTH_MODE=token" in start
    assert "--num-cpus=0" in cluster["head_start_ray_commands"][1]
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][1]
    assert cluster["provider"]["use_internal_ips"] is True
    for node in cluster["available_node_types"].values():
        # Without these Ray makes a wide role and a group that is open for SSH.
        assert {"IamInstanceProfile", "SecurityGroupIds", "SubnetIds"} <= node["node_config"].keys()


def test_rayjob_runs_a_job_that_exists(spec):
    check_command(spec["entrypoint"])


def test_rayjob_is_pinned_to_the_locked_ray(spec):
    assert spec["rayClusterSpec"]["rayVersion"] == LOCK["ray"]


def test_rayjob_head_does_no_work(spec):
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    names = {group["groupName"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]}
    assert names == {"decode", "gpu"}


def test_every_pod_has_the_token_limits_and_no_privileges(spec):
    for pod in pods(spec):
        check_pod(pod)


def check_pod(pod: dict) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["serviceAccountName"] == "fpig"
    (container,) = pod["containers"]
    env = {entry["name"]: entry for entry in container["env"]}
    assert env["RAY_AUTH_MODE"]["value"] == "token"
    assert "secretKeyRef" in env["RAY_AUTH_TOKEN"]["valueFrom"]
    assert int(env["RAY_JOB_STOP_WAIT_TIME_S"]["value"]) >= 60
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert "memory" in container["resources"]["limits"]


def test_worker_pods_have_time_for_a_checkpoint(spec):
    gpu = spec["rayClusterSpec"]["workerGroupSpecs"][1]["template"]["spec"]
    wait_s = next(e["value"] for e in gpu["containers"][0]["env"] if e["name"] == "RAY_JOB_STOP_WAIT_TIME_S")
    assert gpu["terminationGracePeriodSeconds"] > int(wait_s)


@pytest.mark.parametrize("path", DEPLOYMENT, ids=lambda path: path.stem)
def test_no_secret_stands_in_the_file(path: Path):
    def visit(node: object) -> None:
        if isinstance(node, dict):
            assert not (SECRET_NAME.search(str(node.get("name", ""))) and "value" in node), node
            assert node.get("kind") != "Secret"
            for value in node.values():
                visit(value)
        elif isinstance(node, list):
            for value in node:
                visit(value)

    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|RAY_AUTH_TOKEN=|AWS_SECRET", text)
    for document in yaml.safe_load_all(text):
        visit(document)


def test_lock_is_plain_pins_of_everything_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    locked = {canonicalize_name(name): version for name, version in LOCK.items()}
    for wanted in map(Requirement, lines):
        if wanted.name == project["name"]:  # extras of its own
            continue
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), wanted


def test_every_command_in_the_documentation_exists():
    named = {
        (name, job)
        for name in tracked("*.md", "*.yaml", "Makefile")
        for job in re.findall(r"-m jobs\.(\w+)", (ROOT / name).read_text())
        if job not in cli.JOBS
    }
    assert named == set()
