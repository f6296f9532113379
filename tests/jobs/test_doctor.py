"""The doctor: what works is ok, what does not is a bounded failure with a remedy, and no credential is shown."""

import json
import time

import pytest

from jobs import checks, cli, doctor
from tests import servers


@pytest.fixture
def dead_url():
    (port,) = servers.free_ports(1)
    return f"http://127.0.0.1:{port}"


def findings(**options) -> tuple[int, dict]:
    report = doctor.main(doctor.Args(**options))
    return report.exit_code, report.summary["checks"]


def test_this_machine_passes_and_the_probe_is_gone(tmp_path):
    exit_code, found = findings(storage=str(tmp_path / "store"))
    assert exit_code == cli.DONE
    assert found["storage"]["state"] == "ok"
    assert list((tmp_path / "store").iterdir()) == []


def test_every_failure_has_a_remedy_and_exit_code_1(dead_url, tmp_path):
    file = tmp_path / "file"
    file.touch()
    address = dead_url.removeprefix("http://")
    exit_code, found = findings(storage=f"{file}/folder", tracking=dead_url, ray_address=address)
    assert exit_code == cli.FAILED
    for name in ("storage", "tracking", "ray"):
        assert found[name]["state"] == "fail", found[name]
        assert found[name]["remedy"]


def test_s3_that_is_away_fails_soon_and_shows_no_secret(dead_url, monkeypatch):
    for name, value in servers.s3_env(dead_url, key="AKIDEXAMPLE", secret="wJalrEXAMPLE").items():  # noqa: S106
        monkeypatch.setenv(name, value)
    finding = checks.check_storage("s3://bucket/folder")
    assert finding.state == "fail"
    assert "AWS_ENDPOINT_URL" in finding.remedy
    assert "wJalrEXAMPLE" not in finding.found


def test_s3_that_answers_is_ok(s3_server):
    assert checks.check_storage(f"s3://{servers.BUCKET}/folder").state == "ok"


def test_unusable_scheme_is_refused():
    assert checks.check_storage("pipe:cat /etc/passwd").state == "fail"


def test_a_hanging_check_is_cut_off():
    finding = checks.bounded(lambda: time.sleep(30), limit_s=0.1)  # type: ignore[arg-type]
    assert finding.state == "fail"
    assert "no answer within 0.1 s" in finding.found


def test_a_raising_check_is_a_failure():
    finding = checks.bounded(lambda: 1 // 0)  # type: ignore[arg-type]
    assert finding.state == "fail"
    assert "ZeroDivisionError" in finding.found


def test_passwords_in_urls_are_not_shown(dead_url):
    uri = dead_url.replace("http://", "http://someone:pass%20word@")
    finding = checks.check_tracking(uri)
    assert finding.state == "fail"
    assert "word" not in finding.found


def test_token_file_that_others_can_read_is_a_warning(tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.touch(mode=0o644)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert checks.check_ray_token().state == "warn"
    token.chmod(0o600)
    assert checks.check_ray_token().state == "ok"


def test_json_holds_every_check(tmp_path, monkeypatch, capsys):
    target = tmp_path / "doctor.json"
    monkeypatch.setattr("sys.argv", ["doctor", "--json", str(target)])
    with pytest.raises(SystemExit) as stopped:
        doctor.cli()
    assert stopped.value.code == cli.DONE
    result = json.loads(target.read_text())
    assert {"python", "packages", "video", "deepspeed"} <= result["checks"].keys()
    assert result["fail"] == 0
