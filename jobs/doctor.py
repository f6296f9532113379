"""Check the installation, the devices and the services, and say what to do about each finding."""

import dataclasses
from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs import checks
from jobs import cli as command_line
from jobs.checks import Finding

EXAMPLE = "python -m jobs.doctor --storage s3://bucket/folder --tracking http://127.0.0.1:5000"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Check the installation, the devices and the services. Services are asked only if they are named."""

    storage: str = ""
    """folder that must be readable and writable: a path or s3://bucket/folder; a small probe is written and removed"""
    tracking: str = ""
    """MLflow tracking URI"""
    ray_address: str = ""
    """Ray cluster: auto, HOST:PORT of its head, or http://HOST:PORT of its dashboard"""
    json: str = ""
    """write the findings to this file"""


def main(args: Args) -> command_line.Report:
    """Run every check, each within its own bound of time, and print them as one table."""
    todo: dict[str, Callable[[], Finding]] = {
        "python": checks.check_python,
        "packages": checks.check_packages,
        "processors": checks.check_processors,
        "gpu": checks.check_gpu,
        "shared memory": checks.check_shared_memory,
        "disk": checks.check_disk,
        "video": checks.check_video,
        "deepspeed": checks.check_deepspeed,
        "ray token": checks.check_ray_token,
    }
    if args.storage:
        todo["storage"] = lambda: checks.check_storage(args.storage)
    if args.tracking:
        todo["tracking"] = lambda: checks.check_tracking(args.tracking)
    if args.ray_address:
        todo["ray"] = lambda: checks.check_ray(args.ray_address)
    console, findings = Console(), {}
    for name, check in todo.items():
        with console.status(f"checking {name} …"):
            findings[name] = checks.bounded(check)
    console.print(as_table(findings))
    count = {state: sum(finding.state == state for finding in findings.values()) for state in ("ok", "warn", "fail")}
    return command_line.Report(
        title="fpig doctor",
        summary={**count, "checks": {name: dataclasses.asdict(finding) for name, finding in findings.items()}},
        next_command="" if count["fail"] else "python -m jobs.demo",
        exit_code=command_line.FAILED if count["fail"] else command_line.DONE,
    )


def as_table(findings: dict[str, Finding]) -> Table:
    """One row a check, the remedy below what was found."""
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table("check", "state", "found", title_justify="left")
    for name, finding in findings.items():
        text = Text(finding.found)
        if finding.remedy:
            text.append(f"\n→ {finding.remedy}", style="cyan")
        table.add_row(name, Text(finding.state, style=colours[finding.state]), text)
    return table


def cli() -> None:
    """Entry point of ``fpig doctor``."""
    command_line.launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
