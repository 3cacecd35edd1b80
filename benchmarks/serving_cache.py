"""Whether a cache of predictions pays: requests per second with it off, in memory and in Redis.

Each kind is loaded with a row that never changes (every request a hit) and with rows that never
come again (every request a miss, the price of having a cache), one row a request and fifty. All in
one run, with wrk, one worker each, records asynchronous so that the disk is not what is measured.
Answers with the cache are compared with those without.

Before that, the processor time of one process per request, without HTTP, which a busy machine blurs
least: from it follows the share of rows that must come again for a kind to pay.

    python benchmarks/serving_cache.py --workspace workspace [--seconds 3] [--rounds 3]

``--seconds 0`` stops after that. Needs redis-server, and wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from inputs import bundle_folder
from isolation import isolate
from main_job import ROW
from serving import Target, free_port, post, running, tasador_environment, wait_until_answered
from tasador.registry.model_bundle import load_bundle
from tasador.serving.batcher import Batcher
from tasador.serving.cache import make_cache
from tasador.serving.request_parsing import Predictor
from tasador.settings.serving import CacheSettings

BATCHES = (1, 50)
_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local row = [==[{row}]==]
local n = {first}
local same = {same}
function request()
  local rows = {{}}
  for i = 1, {batch} do
    if not same then n = n + 1 end
    rows[i] = string.gsub(row, "8.3252", string.format("%.9f", 1 + n * 1e-9))
  end
  return wrk.format(nil, nil, nil, '{{"instances":[' .. table.concat(rows, ",") .. ']}}')
end
"""
#: Where the rows of each load begin, so that a service never meets one of an earlier round again.
_FIRST = count(0, 5_000_000)


def load(url: str, *, same: bool, batch: int, seconds: float) -> float:
    """Return the requests per second of one round."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        same_text = "true" if same else "false"
        filled = _SCRIPT.format(
            row=json.dumps(ROW), same=same_text, batch=batch, first=next(_FIRST)
        )
        script.write(filled)
        script.flush()
        out = subprocess.run(
            ["wrk", "-t1", "-c16", f"-d{seconds:g}s", "-s", script.name, url],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    if "Non-2xx" in out:
        raise RuntimeError(out)
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])  # type: ignore[index]


class Nobody:
    """Keeps and counts nothing."""

    def submit(self, records: object) -> None: ...

    def stage(self, name: str, seconds: float) -> None: ...

    def predictions(self, values: object) -> None: ...


async def processor_time(workspace: Path, port: int, requests: int = 1500) -> None:
    """Print the microseconds of processor time that a request of one row takes."""
    predictor = Predictor(load_bundle(bundle_folder(workspace)), "local")
    numbers = count(1)
    off = 0.0
    for kind in ("off", "memory", "redis"):
        settings = CacheSettings(kind=kind, url=f"redis://127.0.0.1:{port}/0", timeout_s=1.0)
        cache = make_cache(settings, lambda *_: None)
        batcher = Batcher(Nobody(), Nobody(), cache=cache)
        found = []
        for same in (True, False):
            times = []
            for _ in range(3):
                rows = [
                    predictor.encode(
                        [ROW if same else {**ROW, "median_income": 1 + next(numbers) / 1e5}]
                    )
                    for _ in range(requests)
                ]
                start = time.process_time()
                for row in rows:
                    await batcher.value(predictor, row, client="", started=0.0)
                times.append((time.process_time() - start) / requests * 1e6)
            found.append(min(times))
        hit, miss = found
        off = off or (hit + miss) / 2
        pays = "" if kind == "off" else f"; pays when {(miss - off) / (miss - hit):.0%} come again"
        print(f"{kind:>7}: hit {hit:5.0f} us, miss {miss:5.0f} us{pays}", flush=True)
        if cache is not None:
            await cache.close()


def start(workspace: Path, folder: Path, redis: int, stack: ExitStack) -> list[Target]:
    """Start one service of each kind."""
    targets = []
    for kind in ("off", "memory", "redis"):
        port, own = free_port(), folder / kind
        own.mkdir()
        environment = tasador_environment(workspace, own) | {
            "TASADOR_CACHE__KIND": kind,
            "TASADOR_CACHE__URL": f"redis://127.0.0.1:{redis}/0",
            "TASADOR_RECORDS__MODE": "async",
            "TASADOR_RECORDS__QUEUE": "1000000",
        }
        command = [sys.executable, "-m", "tasador.cli.app", "serve", "--port", str(port)]
        process = stack.enter_context(running(command, environment, own))
        url = f"http://127.0.0.1:{port}/api/v1/predict"
        targets.append(Target(kind, url, json.dumps({"instances": [ROW]})))
        wait_until_answered(targets[-1], process, 60)
    return targets


def same_answers(targets: Sequence[Target]) -> bool:
    """Tell whether all kinds give the same estimate, the first time and again."""
    found = {
        json.dumps({k: v for k, v in row.items() if k != "prediction_id"})
        for target in targets
        for _ in range(2)
        for row in json.loads(post(target.url, target.body))["predictions"]
    }
    return len(found) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        redis, workspace = free_port(), given.workspace.resolve()
        command = ["redis-server", "--port", str(redis), "--save", ""]
        stack.enter_context(running(command, dict(os.environ), Path(folder)))
        while subprocess.run(
            ["redis-cli", "-p", str(redis), "ping"], check=False, capture_output=True
        ).returncode:
            time.sleep(0.05)
        asyncio.run(processor_time(workspace, redis))
        if given.seconds == 0:
            return
        targets = start(workspace, Path(folder), redis, stack)
        print(f"same answers: {same_answers(targets)}")
        print(f"{'rows':>6} {'traffic':<10} " + " ".join(f"{t.name:>18}" for t in targets))
        for batch in BATCHES:
            for same in (True, False):
                rates: dict[str, list[float]] = {target.name: [] for target in targets}
                for _ in range(given.rounds):
                    for target in targets:
                        rate = load(target.url, same=same, batch=batch, seconds=given.seconds)
                        rates[target.name].append(rate)
                medians = [statistics.median(rates[target.name]) for target in targets]
                cells = [f"{rate:9.0f}/s {rate / medians[0]:6.2f}x" for rate in medians]
                print(f"{batch:>6} {'all hits' if same else 'all misses':<10} " + " ".join(cells))


if __name__ == "__main__":
    isolate()
    main()
