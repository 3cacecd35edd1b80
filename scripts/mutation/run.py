"""Change the code in small ways and see whether the tests notice: `make mutate ARGS=gates`.

Each mutant is one change of one function: another comparison, another operator, another number or
key, a call or an error left out, nothing returned. Texts for people (literals with a blank,
f-strings, what an error says) stay as they are. pytest collects the tests of an area once and
runs them once, which also shows which tests reach which function; then, for each mutant, a fork
takes the changed code object in place of the function's own and runs these tests, the quickest
first, until one fails. What fixtures of the whole session made is used as it is, but in areas with
`threads`, whose libraries start threads that a fork would miss: there each fork makes its own.

`areas.toml` says which tests belong to which modules, `survivors.toml` why some mutants live.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib
import inspect
import itertools
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from _pytest.warnings import catch_warnings_for_item

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "explanation" / "mutation-testing.md"
RESULTS = HERE / "results.json"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->"
GOAL, SEED = 0.9, 24
#: With a mutant a test may take so many times its processor time, and so many seconds more.
SLOWER, MORE_S = 10.0, 5.0
OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    """One change of one function: where it is, its line, and what becomes of that."""

    module: str
    function: str
    was: str
    becomes: str
    code: CodeType

    @property
    def key(self) -> tuple[str, str, str]:
        """What the list of known survivors calls it."""
        return f"{self.module}.{self.function}", self.was, self.becomes


def functions_of(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Yield the functions and methods of a module by name; inner ones are part of them."""
    pending: list[tuple[str, ast.AST]] = [("", node) for node in tree.body]
    for prefix, node in pending:
        if isinstance(node, ast.ClassDef):
            pending += [(f"{prefix}{node.name}.", one) for one in node.body]
        elif isinstance(node, Function):
            yield prefix + node.name, node


def places_of(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function's body that may be changed."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr | ast.arguments):
            continue
        yield child
        if isinstance(child, ast.AnnAssign) and child.value is not None:
            yield child.value
            yield from places_of(child.value)
        elif not isinstance(child, ast.Raise):
            yield from places_of(child)


def changes_of(node: ast.AST) -> Iterator[dict[str, Any]]:
    """Yield the fields of a node that a mutant changes, with their new values."""
    match node:
        case ast.Compare(ops=ops):
            for at, one in enumerate(ops):
                yield {"ops": [*ops[:at], OTHER[type(one)](), *ops[at + 1 :]]}
        case ast.BoolOp(op=op) | ast.BinOp(op=op) | ast.AugAssign(op=op):
            if type(op) in OTHER:
                yield {"op": OTHER[type(op)]()}
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield {"operand": ast.UnaryOp(ast.Not(), operand)}
        case ast.UnaryOp(op=ast.USub()):
            yield {"op": ast.UAdd()}
        case ast.Constant(value=bool(value)):
            yield {"value": not value}
        case ast.Constant(value=int(value) | float(value)):
            yield {"value": value + 1}
        case ast.Constant(value=str(value)):
            if value and " " not in value:
                yield {"value": f"XX{value}XX"}
        case ast.Return(value=ast.expr()) if not is_constant(node.value, None):
            yield {"value": ast.Constant(None)}
        case ast.IfExp(test=test) | ast.If(test=test) | ast.While(test=test):
            # of comparisons the operator is changed, and a "not" is left out
            if not isinstance(test, ast.Compare | ast.UnaryOp):
                yield {"test": ast.UnaryOp(ast.Not(), node.test)}
        case ast.Expr(value=ast.Call()):
            yield {"value": ast.Constant(None)}
        case ast.Raise() | ast.Break() | ast.Continue():
            yield {"__class__": ast.Pass}


def is_constant(node: ast.AST | None, value: object) -> bool:
    """Tell whether a node is one constant."""
    return isinstance(node, ast.Constant) and node.value is value


def mutants_of(tree: ast.Module) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield every mutant of a module: its function, the node and what to change of that."""
    for name, function in functions_of(tree):
        if any("overload" in ast.unparse(one) for one in function.decorator_list):
            continue
        body = ast.Module(function.body[isinstance(function.body[0], ast.Expr) :], [])
        for node in places_of(body):
            yield from ((name, node, change) for change in changes_of(node))


@contextlib.contextmanager
def changed(node: Any, change: dict[str, Any]) -> Iterator[None]:
    """Change a node of a tree for as long as the context lasts."""
    before = {key: getattr(node, key) for key in change}
    for key, value in change.items():
        setattr(node, key, value)
    yield
    for key, value in before.items():
        setattr(node, key, value)


def texts_of(node: Any, change: dict[str, Any]) -> tuple[str, str]:
    """Return the line of a node, and that of the changed one; of compound statements the head."""
    was = ast.unparse(node).splitlines()[0]
    with changed(node, change):
        return was, ast.unparse(node).splitlines()[0]


def code_of(tree: ast.Module, path: Path, function: str) -> CodeType:
    """Compile a changed module and return the code of one of its functions."""
    ast.fix_missing_locations(tree)
    found = compile(tree, str(path), "exec", dont_inherit=True)
    for name in function.split("."):
        found = next(
            one for one in reversed(found.co_consts)
            if isinstance(one, CodeType) and one.co_name == name
        )  # fmt: skip
    return found


def place_of(path: Path) -> str:
    """Return the name of a module, within tasador."""
    return ".".join(path.relative_to(ROOT / "src" / "tasador").with_suffix("").parts)


def live_function(module: str, name: str) -> Any:
    """Return the function that runs under a qualified name, without its decorators."""
    owner = importlib.import_module(f"tasador.{module}")
    *classes, last = name.split(".")
    found: Any = functools.reduce(getattr, classes, owner)
    found = inspect.getattr_static(found, last)
    while not inspect.isfunction(found):
        inner = (getattr(found, key, None) for key in ("__wrapped__", "__func__", "fget", "func"))
        found = next(one for one in inner if one is not None)
    return inspect.unwrap(found)


class Mutation:
    """The plugin that runs the tests for each mutant, in place of pytest's own loop."""

    def __init__(self, modules: list[Path], sample: int, only: str, *, threads: bool) -> None:
        self.modules, self.sample, self.only = modules, sample, only
        self.threads = threads
        self.failed: list[str] = []
        self.total = 0
        self.states: list[tuple[Mutant, str]] = []
        self.seen: set[int] = set()
        self.by_fixture: dict[int, set[int]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Note what a fixture reaches: it may be made for the first of several tests only."""
        outer, self.seen = self.seen, set()
        try:
            return (yield)
        finally:
            self.by_fixture.setdefault(id(fixturedef), set()).update(self.seen)
            self.seen |= outer

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(f"{report.nodeid}\n{report.longreprtext}")

    def chosen(self) -> list[Mutant]:
        """Return the sample of all mutants, in the order of the code."""
        every: list[tuple[Path, ast.Module, str, Any, dict[str, Any]]] = []
        for path in self.modules:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            every += [
                (path, tree, *one)
                for one in mutants_of(tree)
                if self.only in f"{place_of(path)}.{one[0]}"
            ]
        self.total = len(every)
        if self.total > self.sample:
            places = random.Random(SEED).sample(range(self.total), self.sample)  # noqa: S311
            every = [every[at] for at in sorted(places)]
        found = []
        for path, tree, name, node, change in every:
            texts = texts_of(node, change)
            with changed(node, change):
                found.append(Mutant(place_of(path), name, *texts, code_of(tree, path, name)))
        return found

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("the tests cannot be collected")
        mutants = self.chosen()
        functions = {(one.module, one.function): None for one in mutants}
        functions = {key: live_function(*key) for key in functions}
        codes = {id(f.__code__) for f in functions.values()}
        # a fork has none of the threads that a library started, and may wait for them for ever
        run = self.run_all_in_fork if self.threads else self.run_all
        reached, seconds = run(session, codes)
        if self.failed:
            print("\n".join(self.failed), file=sys.stderr)
            raise session.Interrupted("tests fail without any change")
        for one in mutants:
            function = functions[one.module, one.function]
            tests = [i for i in session.items if id(function.__code__) in reached[i.nodeid]]
            tests.sort(key=lambda item: seconds[item.nodeid])
            state = "reached by no test"
            if tests:
                state = in_fork(tests, function, one.code, seconds)
            self.states.append((one, state))
            print(f"{state}: {' | '.join(one.key)}", file=sys.stderr, flush=True)
        return True

    def run_all_in_fork(
        self, session: pytest.Session, codes: set[int]
    ) -> tuple[dict[str, set[int]], dict[str, float]]:
        """Do as `run_all`, and leave this process without any thread."""
        came, goes = os.pipe()
        child = os.fork()
        if not child:
            with os.fdopen(goes, "wb") as file:
                pickle.dump((*self.run_all(session, codes), self.failed), file)
            os._exit(0)
        os.close(goes)
        with os.fdopen(came, "rb") as file:
            reached, seconds, self.failed = pickle.load(file)  # noqa: S301
        os.waitpid(child, 0)
        return reached, seconds

    def run_all(
        self, session: pytest.Session, codes: set[int]
    ) -> tuple[dict[str, set[int]], dict[str, float]]:
        """Run every test once: which of the codes, by their `id`, it reaches, and its seconds."""
        # a code object's own hash goes over all of it, at every call of every function
        reached: dict[str, set[int]] = {}
        seconds = {}

        def note(frame: FrameType, *_: object) -> None:
            if id(frame.f_code) in codes:
                self.seen.add(id(frame.f_code))

        for item, following in with_next(session.items):
            self.seen = set()
            began = time.process_time()
            sys.setprofile(note)
            threading.setprofile(note)
            run_one(item, following, log=True)
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
            seconds[item.nodeid] = time.process_time() - began
            named = item._fixtureinfo.name2fixturedefs
            made = (self.by_fixture.get(id(one), ()) for every in named.values() for one in every)
            reached[item.nodeid] = self.seen.union(*made)
        return reached, seconds


def run_one(item: pytest.Item, following: pytest.Item | None, *, log: bool) -> bool:
    """Run a test, though it may have run before, and keep the session's fixtures; does it fail?"""
    item._initrequest()  # type: ignore[attr-defined]
    # what the following test needs stays, and after the last one what the session has
    stays = item.session if following is None else following
    # the filters of pytest's settings and of a test's marks, which its own loop would set
    with catch_warnings_for_item(item.config, item.ihook, "runtest", item):
        reports = runtestprotocol(item, log=log, nextitem=stays)  # type: ignore[arg-type]
    return any(report.failed for report in reports)


def with_next(tests: list[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    """Yield each test with the one that follows, the last with None."""
    yield from itertools.zip_longest(tests, tests[1:])


def in_fork(
    tests: list[pytest.Item], function: Any, code: CodeType, seconds: dict[str, float]
) -> str:
    """Run tests with another code of a function, in a fork of this process; what became of it."""
    child = os.fork()
    if not child:
        state = 1
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            function.__code__ = code
            # whichever test comes first may have to make the fixtures that others found made
            more = MORE_S + max(seconds.values())
            for item, following in with_next(tests):
                # processor time, since the machine may have other work; and what waits for ever
                limit = SLOWER * seconds[item.nodeid] + more
                signal.setitimer(signal.ITIMER_PROF, limit)
                signal.alarm(math.ceil(30 + 5 * limit))
                if run_one(item, following, log=False):
                    break
            else:
                state = 0
        finally:
            os._exit(state)
    code_ = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "survived" if code_ == 0 else "killed" if code_ > 0 else "timeout"


def wilson(part: int, whole: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927); (0, 1) where nothing was seen."""
    if not whole:
        return 0.0, 1.0
    share, spread = part / whole, z * z / whole
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / whole + spread / (4 * whole)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def read_areas() -> dict[str, dict[str, Any]]:
    """Return each area's modules and tests, by its name."""
    return tomllib.loads((HERE / "areas.toml").read_text(encoding="utf-8"))


def paths_of(area: dict[str, Any]) -> list[Path]:
    """Return the files of an area's modules."""
    return sorted(p for one in area["modules"] for p in (ROOT / "src" / "tasador").glob(one))


def read_survivors() -> dict[tuple[str, str, str], str]:
    """Return why each known survivor lives, by its function, what it was and what it becomes."""
    found = tomllib.loads((HERE / "survivors.toml").read_text(encoding="utf-8"))
    return {
        (one["in"], one["was"], one["becomes"]): one["why"] for one in found.get("survivor", ())
    }


def stale_survivors(known: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return the known survivors that are no mutants of the code any more."""
    there = set()
    for area in read_areas().values():
        for path in paths_of(area):
            for function, node, change in mutants_of(ast.parse(path.read_text(encoding="utf-8"))):
                place = f"{place_of(path)}.{function}"
                if any(one[0] == place for one in known):
                    there.add((place, *texts_of(node, change)))
    return [one for one in known if one not in there]


def run_area(name: str, sample: int, only: str) -> dict[str, Any]:
    """Test a sample of one area's mutants; the counts and the survivors."""
    area = read_areas()[name]
    plugin = Mutation(paths_of(area), sample, only, threads=area.get("threads", False))
    words = [*(f"tests/{one}" for one in area["tests"]), "-q", "-m", "not slow", "--tb=no"]
    words += ["-p", "no:cacheprovider", "-p", "no:xdist", "--capture=sys"]
    if "only" in area:
        words += ["-k", area["only"]]
    for one in area.get("without", ()):
        words += ["--deselect", f"tests/{one}"]
    os.chdir(ROOT)
    if pytest.main(words, plugins=[plugin]):
        raise SystemExit(f"{name}: the tests do not run, see above")
    noticed = [state for _, state in plugin.states if state in ("killed", "timeout")]
    return {
        "mutants": plugin.total,
        "sample": len(plugin.states),
        "killed": len(noticed),
        "timeouts": noticed.count("timeout"),
        "survivors": [
            [*one.key, state] for one, state in plugin.states if state not in ("killed", "timeout")
        ],
    }


def explained(found: dict[str, Any]) -> int:
    """Return how many of an area's survivors are known ones."""
    known = read_survivors()
    return sum(tuple(one[:3]) in known for one in found["survivors"])


def report(name: str, found: dict[str, Any]) -> bool:
    """Print one area's figures and unexplained survivors; whether it reaches the goal."""
    known, listed = read_survivors(), explained(found)
    low, high = wilson(found["killed"], found["sample"])
    share = found["killed"] / max(1, found["sample"] - listed)
    print(
        f"{name}: {found['killed']} of {found['sample']} killed ({low:.0%} to {high:.0%}; "
        f"{found['mutants']} mutants in all, {found['timeouts']} by time), {listed} survivors "
        f"known; {share:.0%} of the others (goal {GOAL:.0%})"
    )
    for place, was, becomes, state in found["survivors"]:
        if (place, was, becomes) not in known:
            print(f"  {state}: {place}\n    - {was}\n    + {becomes}")
    return share >= GOAL


def draw_page(results: dict[str, Any]) -> None:
    """Write the tables of figures and survivors of the page again."""
    lines = [
        "| Area | Mutants | Sample | Killed | 95% interval | Of those not explained below |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        low, high = wilson(one["killed"], one["sample"])
        lines.append(
            f"| {name} | {one['mutants']} | {one['sample']} | {one['killed'] / one['sample']:.0%} "
            f"| {low:.0%} to {high:.0%} | "
            f"{one['killed'] / max(1, one['sample'] - explained(one)):.0%} |"
        )
    lines += ["", "| Survivor in | Was | Becomes | Why no test notices |", "|---|---|---|---|"]
    for key, why in sorted(read_survivors().items()):
        cells = [f"`{cell}`".replace("|", "\\|") for cell in key]
        lines.append(f"| {' | '.join(cells)} | {why} |")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + "\n".join(["", *lines, "", END]) + after, encoding="utf-8")


def main() -> int:
    """Run the areas asked for, each in a process of its own; 1 where one misses the goal."""
    names = list(read_areas())
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("areas", nargs="*", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--sample", type=int, default=60, help="mutants of an area (60)")
    parser.add_argument("--only", default="", help="functions whose qualified name holds this")
    parser.add_argument("--page", action="store_true", help="keep the figures, draw the page")
    parser.add_argument("--check", action="store_true", help="look at the known survivors only")
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := [one for one in given.areas if one not in names]:
        parser.error(f"expected areas of {', '.join(names)}, got {', '.join(unknown)}")
    if given.to:
        found = run_area(given.areas[0], given.sample, given.only)
        given.to.write_text(json.dumps(found), encoding="utf-8")
        return 0
    for place, was, becomes in stale_survivors(read_survivors()):
        print(f"survivors.toml: {place}: {was!r} -> {becomes!r} is no mutant any more: remove it")
        return 1
    results: dict[str, Any] = {}
    reached = True
    for name in () if given.check else given.areas or names:
        target = ROOT / f".mutation-{name}.json"
        words = [name, "--sample", str(given.sample), "--only", given.only, "--to", str(target)]
        if subprocess.run([sys.executable, __file__, *words]).returncode:  # noqa: PLW1510
            return 2
        results[name] = json.loads(target.read_text(encoding="utf-8"))
        target.unlink()
        reached &= report(name, results[name])
    if given.page:
        # read now: another run may have written meanwhile
        results = json.loads(RESULTS.read_text(encoding="utf-8")) | results
        results = {name: results[name] for name in names if name in results}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        draw_page(results)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
