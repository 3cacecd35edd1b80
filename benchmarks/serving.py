"""Serving, measured against an empty POST and what users would pick instead.

In one run, with wrk on the same machine, one worker each: tasador with the newest bundle of a
workspace (every valuation recorded, durable mode), an empty POST on the same road of the same
server, the reference's architecture, `mlflow models serve` of the same registered model, BentoML,
and MLServer with its LightGBM runtime. Rounds go round all servers in turn, so that a busy moment
of the machine hits each; medians are printed. The answer of tasador under load is compared with the
bundle's own. Then, from an environment with the serve extra only: seconds from start to ready, and
resident memory under load.

    python benchmarks/serving.py --workspace workspace [--peers reference,mlflow,bentoml,mlserver]

Needs wrk, and for the peers' environments the package registry. Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from figures import Figures
from inputs import bundle_folder, real_table
from isolation import isolate
from main_job import ROW, Figure
from peer_environments import peer_python
from tasador.registry.model_bundle import load_bundle

HERE = Path(__file__).parent
PEERS = HERE / "serving_peers"
CONNECTIONS = 16


@dataclass
class Target:
    """A route to load.

    Attributes:
        name: What is printed.
        url: Where to post.
        body: What to post.
        rounds: (requests per second, p50 ms, p99 ms, refused or failed) of each round.
        ready_s: Seconds from the start of its process to its first answer.
        group: Its process group, whose memory is its own; 0 for a route of another's.
    """

    name: str
    url: str
    body: str
    rounds: list[tuple[float, float, float, int]] = field(default_factory=list)
    ready_s: float | None = None
    group: int = 0

    def median(self, what: int) -> float:
        """Return the median over the rounds of one of the figures."""
        return statistics.median(one[what] for one in self.rounds)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: list[str], env: dict[str, str], cwd: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process group of its own."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
    process = subprocess.Popen(
        command, env=env, cwd=cwd, stdout=log, stderr=log, start_new_session=True
    )
    try:
        yield process
    except BaseException:
        log.seek(0)
        sys.stderr.write(log.read().decode(errors="replace")[-3000:])
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def post(url: str, body: str) -> bytes:
    """Post JSON once."""
    request = urllib.request.Request(url, body.encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def wait_until_answered(target: Target, process: subprocess.Popen[bytes], limit_s: float) -> None:
    """Wait until a route of a process just started answers with success, and note how long."""
    started = time.monotonic()
    while True:
        try:
            post(target.url, target.body)
            target.ready_s, target.group = time.monotonic() - started, process.pid
            return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() - started > limit_s:
                raise RuntimeError(f"{target.name} does not answer") from None
            time.sleep(0.02)


def group_memory(group: int) -> float | None:
    """Return the MB of a process group, pages that its processes share counted once."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ProcessLookupError):
            if os.getpgid(int(folder.name)) == group:
                rows = (folder / "smaps_rollup").read_text()
                total += int(re.search(r"^Pss:\s+(\d+)", rows, re.M)[1])  # type: ignore[index]
    return total / 1024 if total else None


def load(
    target: Target, seconds: float, connections: int = CONNECTIONS, core: int | None = None
) -> None:
    """Load a route with wrk, on `core` alone where it is given, for a round; keep the figures."""
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
            f"wrk.body = [==[{target.body}]==]\n"
        )
        script.flush()
        out = subprocess.run(
            [*pinned, "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency",
             "--timeout", "10s", "-s", script.name, target.url],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    target.rounds.append(
        (
            float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),  # type: ignore[index]
            _milliseconds(re.search(r"50%\s+([\d.]+\w+)", out)[1]),  # type: ignore[index]
            _milliseconds(re.search(r"99%\s+([\d.]+\w+)", out)[1]),  # type: ignore[index]
            int(failed[1]) if failed else 0,
        )
    )


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[unit]


def environment(name: str, *packages: str) -> Path:
    """Return the Python of an environment with `packages`, made when it is not there."""
    folder = Path(tempfile.gettempdir()) / f"tasador-bench-{name}"
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "done").touch()
    return python


def serving_environment() -> Path:
    """Return the Python of an environment with the locked serve extra and tasador alone."""
    root = HERE.parent
    python = environment("serve", "--require-hashes", "-r", str(root / "requirements" / "uv.txt"))
    install = [str(python.parent / "uv"), "pip", "install", "-q", "--python", str(python)]
    lock = str(root / "requirements" / "lock.txt")
    extras = ["--extra", "serve", "--extra", "signing"]
    project = str(root / "pyproject.toml")
    for arguments in (
        ["--require-hashes", "-c", lock, "-r", project, *extras],
        ["--no-deps", "--reinstall", "--build-constraints", lock, str(root)],
    ):
        subprocess.run([*install, *arguments], check=True)
    return python


def tasador_environment(workspace: Path, folder: Path) -> dict[str, str]:
    """Return the variables under which tasador serves the newest bundle of `workspace`."""
    return {
        **os.environ,
        "TASADOR_SOURCE__LOCAL": str(bundle_folder(workspace)),
        "TASADOR_RECORDS__URL": f"sqlite:///{folder / 'records.db'}",
        "TASADOR_SERVER__LOG_LEVEL": "WARNING",
        "PYTHONPATH": str(PEERS),
    }


def uvicorn(python: Path | str, factory: str, port: int) -> list[str]:
    """Return the command of a uvicorn server with one worker, set up as tasador's own."""
    return [str(python), "-m", "uvicorn", "--factory", factory, "--port", str(port),
            "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level",
            "warning"]  # fmt: skip


def start_servers(
    peers: list[str], workspace: Path, folder: Path, stack: ExitStack
) -> list[Target]:
    """Start every server and return the routes to load, ours first."""
    body = json.dumps({"instances": [ROW]})
    env = tasador_environment(workspace, folder)
    port = free_port()
    targets = [
        Target("tasador", f"http://127.0.0.1:{port}/api/v1/predict", body),
        Target("empty POST", f"http://127.0.0.1:{port}/empty", body),
    ]
    process = stack.enter_context(running(uvicorn(sys.executable, "ours:app", port), env, PEERS))
    wait_until_answered(targets[0], process, 240)
    for peer in peers:
        port = free_port()
        url = f"http://127.0.0.1:{port}/api/v1/predict"
        if peer == "reference":
            real_table("housing.csv")
            target = Target("reference architecture", url, body)
            env = with_forest(sys.executable, env, folder / "reference.joblib")
            command = uvicorn(sys.executable, "reference:app", port)
        elif peer == "mlflow":
            target = Target("mlflow models serve", f"http://127.0.0.1:{port}/invocations",
                            json.dumps({"dataframe_records": [ROW]}))  # fmt: skip
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            registry = f"sqlite:///{workspace.resolve() / 'mlflow.db'}"
            env = env | {"MLFLOW_TRACKING_URI": registry, "PATH": path}
            command = [sys.executable, "-m", "mlflow", "models", "serve", "-m",
                       "models:/housing_price_model@staging", "--env-manager", "local",
                       "--port", str(port), "--workers", "1"]  # fmt: skip
        elif peer == "mlserver":
            python, own = peer_python("mlserver"), folder / "mlserver"
            own.mkdir()
            fit = [str(python), str(PEERS / "for_mlserver.py"), str(own), str(port)]
            subprocess.run(fit, env=env, check=True)
            values = [ROW[name] for name in ROW if name != "ocean_proximity"]
            row = {"name": "row", "shape": [1, 9], "datatype": "FP64", "data": [*values, 3]}
            url = f"http://127.0.0.1:{port}/v2/models/housing/infer"
            target = Target("MLServer, LightGBM", url, json.dumps({"inputs": [row]}))
            command = [str(python.with_name("mlserver")), "start", str(own)]
        else:
            target = Target("BentoML", url, body)
            python = peer_python("bentoml")
            env = with_forest(python, env, folder / "bentoml.joblib")
            command = [str(python), "-m", "bentoml", "serve", "bento:Valuation", "--port",
                       str(port), "--working-dir", str(PEERS)]  # fmt: skip
        process = stack.enter_context(running(command, env, PEERS))
        wait_until_answered(target, process, 240)
        targets.append(target)
    return targets


def with_forest(python: Path | str, env: dict[str, str], stored: Path) -> dict[str, str]:
    """Fit the peers' forest and store it, so that their start loads it and does not fit."""
    env = env | {"TASADOR_BENCH_FOREST": str(stored)}
    command = [str(python), "-c", "import reference; reference.fit()"]
    subprocess.run(command, env=env, cwd=PEERS, check=True)
    return env


def cold_start(workspace: Path, folder: Path) -> tuple[float, float, float]:
    """Start the service in its own environment; seconds to ready, MB then and under load."""
    python = serving_environment()
    port = free_port()
    env = tasador_environment(workspace, folder) | {"PYTHONPATH": ""}
    body = json.dumps({"instances": [ROW]})
    target = Target("cold", f"http://127.0.0.1:{port}/api/v1/predict", body)
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        command = [str(python.with_name("tasador")), "serve", "--port", str(port)]
        with running(command, env, folder) as process:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5)
                    break
                except (urllib.error.URLError, OSError):
                    if process.poll() is not None:
                        raise RuntimeError("the service stopped") from None
                    time.sleep(0.01)
            seconds.append(time.monotonic() - started)
            time.sleep(2.0)
            ready = resident(process.pid)
            load(target, 5)
            loaded = resident(process.pid)
    return statistics.median(seconds), ready, loaded


def resident(pid: int) -> float:
    """Return the MB of a process that are in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def keep(
    targets: list[Target], goals: list[Figure], memory: dict[str, float | None], equal: bool
) -> None:
    """Keep what the suite shows."""
    kept, ours = Figures(), targets[0].median(0)
    checks = {"tasador": "the bundle's own, to the last digit" if equal else "DIFFERS",
              "empty POST": "none", "mlflow models serve": "the same bundle",
              "MLServer, LightGBM": "another model (500 trees), answers 200"}  # fmt: skip
    kept.table(
        f"One row a request, {CONNECTIONS} connections, medians of the rounds",
        ("Server", "requests/s", "p50 ms", "p99 ms", "failed", "tasador: times as fast",
         "Answer"),
        [
            (t.name, *(t.median(i) for i in range(3)), sum(one[3] for one in t.rounds),
             ours / t.median(0), checks.get(t.name, "another model (128 trees), answers 200"))
            for t in targets
        ],
    )  # fmt: skip
    mine = memory["tasador"]
    kept.table(
        "Start and memory, in the environments in which each was loaded",
        ("Server", "seconds to the first answer", "MB after the load",
         "times as much memory as tasador"),
        [
            (t.name, t.ready_s, memory[t.name],
             memory[t.name] / mine if memory[t.name] and mine else None)  # type: ignore[operator]
            for t in targets if t.group
        ],
        "Of all processes of a server, shared pages once. Every server loads a stored model. "
        "tasador in an environment of its own, as it is deployed, is among the goals below.",
    )  # fmt: skip
    kept.bars("Requests per second", "One row a request, one worker.",
              [t.name for t in targets], [t.median(0) for t in targets])  # fmt: skip
    for goal in goals:
        goal.keep(kept)
    kept.keep()


def main() -> int:
    """Measure, print, and tell whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    parser.add_argument("--peers", default="reference,mlflow,bentoml,mlserver")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-cold-start", action="store_true")
    arguments = parser.parse_args()
    peers = [peer for peer in arguments.peers.split(",") if peer]
    with tempfile.TemporaryDirectory(prefix="tasador-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        targets = start_servers(peers, arguments.workspace, folder, stack)
        for round_ in range(arguments.rounds + 1):
            for target in targets:
                load(target, arguments.seconds if round_ else 2.0)
                if round_ == 0:
                    target.rounds.clear()  # the first one warms up
        expected = load_bundle(bundle_folder(arguments.workspace)).value(ROW).prediction
        answer = json.loads(post(targets[0].url, targets[0].body))
        equal = answer["predictions"][0]["predicted_price"] == expected
        memory = {target.name: group_memory(target.group) for target in targets}
    print(f"{'server':<26}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'failed':>8}")
    for target in targets:
        rate, p50, p99 = (target.median(i) for i in range(3))
        failed = sum(one[3] for one in target.rounds)
        print(f"{target.name:<26}{rate:>12,.0f}{p50:>10.2f}{p99:>10.2f}{failed:>8}")
    ours, rates = targets[0], {target.name: target.median(0) for target in targets}
    figures = [
        Figure("share of the empty POST's throughput, %", 100 * rates["tasador"]
               / rates["empty POST"], 50, lower_is_better=False),
        Figure("p50 at 16 connections, ms", ours.median(1), 2),
        Figure("p99 at 16 connections, ms", ours.median(2), 5),
        *(
            Figure(f"times {name}", rates["tasador"] / rate, 20, lower_is_better=False)
            for name, rate in rates.items()
            if name not in ("tasador", "empty POST")
        ),
    ]  # fmt: skip
    if not arguments.skip_cold_start:
        with tempfile.TemporaryDirectory(prefix="tasador-bench-") as temporary:
            ready, resident, loaded = cold_start(arguments.workspace, Path(temporary))
        figures += [
            Figure("cold start to ready, s", ready, 2),
            Figure("resident memory when ready, MB", resident, 250),
            Figure("resident memory under load, MB", loaded, 250),
        ]
    for figure in figures:
        print(figure)
    print(f"answer under load equal to the bundle's own: {equal}")
    keep(targets, figures, memory, equal)
    return 0 if equal and all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    isolate()
    sys.exit(main())
