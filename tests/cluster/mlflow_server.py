"""A real MLflow server for tests of outages."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.waiting import wait_until

STARTS_WITHIN_S = 150


class Server:
    """A real ``mlflow server`` that can be killed and started again at the same address."""

    def __init__(self, database: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._options = ["--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")]
        self._log = folder / "server.log"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        with open(self._log, "ab") as output:
            self._process = subprocess.Popen(
                [*command, *self._options],
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        wait_until(self._answers, limit_s=STARTS_WITHIN_S)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:  # noqa: S310
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        os.killpg(self._process.pid, 9)
        self._process.wait()
