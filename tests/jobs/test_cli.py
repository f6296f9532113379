"""Every command: help with an example, and one line with exit code 2 for what it does not understand."""

import importlib
import os
import signal
import subprocess
import sys

import pytest

from jobs import cli

JOBS = list(cli.JOBS)


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int | str | None:
    """The exit code of ``fpig ARGV``, in this process."""
    monkeypatch.setattr(sys, "argv", ["fpig", *argv])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


@pytest.mark.parametrize("job", JOBS)
def test_help_has_an_example(job, monkeypatch, capsys):
    assert run(monkeypatch, job, "--help") in (0, None)
    assert f"Example: python -m jobs.{job}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("job", JOBS)
def test_unknown_option_is_one_line_and_exit_code_2(job, monkeypatch, capsys):
    assert run(monkeypatch, job, "--no-such-option", "1") == cli.WRONG_USE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"fpig {job}: ")
    assert "Traceback" not in lines[0]


def test_unknown_job_names_the_known_ones(monkeypatch, capsys):
    assert run(monkeypatch, "nope") == cli.WRONG_USE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "'nope'" in lines[0]
    assert "embed_corpus" in lines[0]


def test_bare_command_lists_every_job(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fpig"])
    assert run(monkeypatch) == cli.DONE
    out = capsys.readouterr().out
    assert all(job in out for job in cli.JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_import_starts_nothing(job):
    """Importing a job neither parses the command line nor starts Ray."""
    module = importlib.import_module(f"jobs.{job}")
    assert callable(module.cli)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_wish(number):
    before = signal.getsignal(number)
    with cli.stop_signals() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), number)
        assert should_stop()
    assert signal.getsignal(number) == before


def test_the_second_signal_ends_the_process():
    code = "import os\nfrom jobs import cli\nwith cli.stop_signals():\n  for _ in range(2): os.kill(os.getpid(), 15)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == -signal.SIGTERM
