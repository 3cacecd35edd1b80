"""Prove, without a container engine, what `docker/api.Dockerfile` would build and run.

The file itself is read: its RUN and COPY lines are carried out below a temporary root (Debian's
packages and LABELs apart), then its ENV, USER, ENTRYPOINT, CMD and HEALTHCHECK start and probe the
service. It must stay below the size limit, hold none of the training libraries, write nowhere but
to the workspace and /tmp, value a row and write its report.

    python docker/prove_api_image.py BUNDLE --row '{"longitude": -122.2, ...}'
        [--object-store gs://bucket/prefix --environment STORAGE_EMULATOR_HOST=http://...]

With an object store (an emulator will do) the image gets the bundle from there and nowhere else.

What this does not show: that the base image exists, and that the image's layers are as small.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MB = 350
#: Nothing of what trains may be there; full MLflow neither.
FORBIDDEN = ("pandas", "polars", "sklearn", "lightgbm", "optuna", "mlflow", "matplotlib", "hydra")
SKIPPED = ("apt-get",)


@dataclass
class Stage:
    """One stage of the file: its instructions in order, and what the last one of a kind says."""

    instructions: list[tuple[str, str]] = field(default_factory=list)

    def last(self, name: str) -> str:
        """Return the arguments of the last instruction of that name."""
        return [arguments for found, arguments in self.instructions if found == name][-1]


def read_stages(text: str) -> list[Stage]:
    """Split a Dockerfile into stages; comments go, continued lines are joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: list[Stage] = []
    for line in joined.splitlines():
        if not line.strip():
            continue
        name, _, arguments = line.strip().partition(" ")
        if name == "FROM":
            stages.append(Stage())
        stages[-1].instructions.append((name, arguments.strip()))
    return stages


class Image:
    """The file system that the file describes, below a temporary root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = Path("/")
        self.environment = {"PATH": f"{root}/base/bin:/usr/bin:/bin", "HOME": str(root / "tmp")}
        (root / "tmp").mkdir()
        # The base image: a Python of the same minor version, with pip.
        subprocess.run([sys.executable, "-m", "venv", str(root / "base")], check=True)

    def inside(self, path: str) -> Path:
        """Return where a path of the image lies here."""
        return self.root / (self.folder / path).relative_to("/")

    def translate(self, text: str) -> str:
        """Return a command with the image's paths turned into paths here."""
        return re.sub(r"(?<![\w.])/(opt|srv|build)\b", rf"{self.root}/\1", text)

    def carry_out(self, stage: Stage) -> None:
        """Carry out a stage's instructions."""
        for name, arguments in stage.instructions:
            if name == "WORKDIR":
                self.folder = Path(arguments)
                self.inside(".").mkdir(parents=True, exist_ok=True)
            elif name in ("ARG", "ENV"):
                for pair in shlex.split(arguments):
                    key, _, value = pair.partition("=")
                    value = self.translate(value).replace("$PATH", self.environment["PATH"])
                    self.environment[key] = value
            elif name == "COPY" and not arguments.startswith("--from"):
                *sources, target = arguments.split()
                self._copy(sources, target)
            elif name == "RUN" and not any(word in arguments for word in SKIPPED):
                self._run(arguments)

    def _copy(self, sources: list[str], target: str) -> None:
        for pattern in sources:
            for source in ROOT.glob(pattern.rstrip("/")):
                if source.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__", "*.so")
                    shutil.copytree(source, self.inside(target), ignore=ignored, dirs_exist_ok=True)
                else:
                    shutil.copy(source, self.inside(target))

    def _run(self, command: str) -> None:
        translated = re.sub(r"install -d -o \d+ -g \d+", "install -d -m 777", command)
        done = subprocess.run(
            ["/bin/sh", "-euc", self.translate(translated)],
            cwd=self.inside("."),
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"RUN {command}\n{done.stdout}")


def prove(
    bundle: Path, row: dict[str, object], variables: dict[str, str] | None = None
) -> dict[str, object]:
    """Build, measure, serve and value; returns what was found, or ends with what is wrong.

    Args:
        bundle: What is served, unless `variables` name another source.
        row: What is valued.
        variables: Further settings of the service.
    """
    builder, final = read_stages((ROOT / "docker" / "api.Dockerfile").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="tasador-image-") as temporary:
        root = Path(temporary)
        root.chmod(0o755)
        image = Image(root)
        image.carry_out(builder)
        image.carry_out(final)
        size = _megabytes(root / "opt")
        if size >= LIMIT_MB:
            raise SystemExit(f"the environment has {size} MB, the limit is {LIMIT_MB} MB")
        found = _importable(image)
        if found:
            raise SystemExit(f"what trains is in the image: {', '.join(found)}")
        workspace = root / "srv" / "tasador" / "workspace"
        if not variables:
            shutil.copytree(bundle, workspace / "bundles" / "proof")
        image.environment |= variables or {}
        before = _files(root, workspace)
        answer = _serve(image, final, row)
        written = _files(root, workspace) - before
        if written:
            raise SystemExit(f"written outside the workspace and /tmp: {sorted(written)[:5]}")
    return {"megabytes": size, **answer}


def _megabytes(folder: Path) -> int:
    done = subprocess.run(["du", "-sm", str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def _importable(image: Image) -> list[str]:
    code = f"import importlib.util as u; print(*[n for n in {FORBIDDEN} if u.find_spec(n)])"
    python = image.root / "opt" / "tasador" / "bin" / "python"
    done = subprocess.run(
        [str(python), "-I", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def _files(root: Path, workspace: Path) -> set[str]:
    spared = (str(workspace), str(root / "tmp"))
    return {str(path) for path in root.rglob("*") if not str(path).startswith(spared)}


def _serve(image: Image, stage: Stage, row: dict[str, object]) -> dict[str, object]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **image.environment,
        "HOME": str(image.root / "tmp"),
        "TASADOR_SERVER__HOST": "127.0.0.1",
        "TASADOR_SERVER__PORT": str(port),
    }
    command = json.loads(stage.last("ENTRYPOINT")) + json.loads(stage.last("CMD"))
    command[0] = shutil.which(command[0], path=environment["PATH"]) or command[0]
    identity = _as_user(stage.last("USER"), command[0])
    log = image.root / "tmp" / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            identity + command, cwd=image.inside("."), env=environment, stdout=output, stderr=output
        )
        try:
            base = f"http://127.0.0.1:{port}"
            _wait(f"{base}/health/ready", process, log)
            probe = json.loads(stage.last("HEALTHCHECK").partition("CMD ")[2])
            subprocess.run(probe, env=environment, check=True)
            answer = json.loads(_post(f"{base}/api/v1/predict", {"instances": [row]}))
            report = _post(f"{base}/api/v1/appraise", {"instances": [row]})
            if not report.lstrip().startswith(b"<!doctype html>"):
                raise SystemExit(f"the report is no page: {report[:200]!r}")
            with urllib.request.urlopen(f"{base}/health", timeout=10) as health:
                answer["source"] = json.load(health)["source"]
        finally:
            process.terminate()
            code = process.wait(30)
    if code not in (0, -15):
        raise SystemExit(f"it ended with {code} on SIGTERM:\n{log.read_text()[-2000:]}")
    return {**answer, "user": "the image's" if identity else "the caller's"}


def _as_user(user: str, program: str) -> list[str]:
    """Return what runs a program as the image's user, where that can be done."""
    uid, _, gid = user.partition(":")
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        return []
    identity = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    tried = subprocess.run([*identity, program, "--version"], check=False, capture_output=True)
    return identity if tried.returncode == 0 else []  # e.g. a Python below /root


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                break
            time.sleep(0.1)
    raise SystemExit(f"the service did not become ready:\n{log.read_text()[-2000:]}")


def _post(url: str, body: dict[str, object]) -> bytes:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: bytes = response.read()
    return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--row", required=True, type=json.loads)
    parser.add_argument("--object-store", help="where `tasador publish` put the bundle")
    parser.add_argument("--environment", nargs="*", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    told = dict(pair.split("=", 1) for pair in arguments.environment)
    if arguments.object_store:
        told["TASADOR_SOURCE__OBJECT_STORE"] = arguments.object_store
    print(json.dumps(prove(arguments.bundle, arguments.row, told), indent=2))
