"""Run command lines as processes that share what was imported: JSON in, JSON out.

`python lines.py FOLDER` reads a list of [words, variables] from stdin and prints what each line
ended with: [exit code, stderr]. Each runs in a fork, by the installed entry point, in FOLDER.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from importlib.metadata import entry_points

#: What most commands import and what takes long to; nothing of it starts a thread when imported.
_SHARED = ("hydra", "httpx", "numpy", "onnxruntime", "orjson", "pandas", "polars",
           "pyarrow.parquet", "rich.console", "scipy.spatial", "scipy.stats", "sklearn.ensemble",
           "matplotlib.figure", "mlflow", "sqlalchemy", "uvicorn", "fastapi",
           "lightgbm")  # fmt: skip
_AT_ONCE = 2


def start(words: list[str], variables: dict[str, str], out: int, err: int) -> int:
    """Fork a process that runs one command line; return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.environ.update(variables)
        sys.path[:0] = [path for path in [variables.get("PYTHONPATH")] if path]
        sys.argv = ["tasador", *words]
        (command,) = entry_points(group="console_scripts", name="tasador")
        command.load()()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(folder: str) -> None:
    lines = json.load(sys.stdin)
    for name in _SHARED:
        importlib.import_module(name)
    os.chdir(folder)
    said = [tempfile.TemporaryFile("w+") for _ in lines]  # noqa: SIM115 - until the end
    running: dict[int, int] = {}
    codes: dict[int, int] = {}

    def wait() -> None:
        pid, status = os.wait()
        codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)

    for place, (words, variables) in enumerate(lines):
        if len(running) == _AT_ONCE:
            wait()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        running[start(words, variables, nowhere, said[place].fileno())] = place
        os.close(nowhere)
    while running:
        wait()
    found = []
    for place, file in enumerate(said):
        file.seek(0)
        found.append((codes[place], file.read()))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
