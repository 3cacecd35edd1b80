"""Look for secrets in every line that any commit ever added, also those that were removed since.

    python .github/scripts/secrets_in_history.py [--note] [REPOSITORY]

detect-secrets looks, as `make security` lets it look at the present files. What any state of
.secrets.baseline ever listed is a known false alarm, and what .secrets.history lists; `--note` adds
what is found to the latter (detect-secrets drops lines that are gone from its own). Exits with 1
and names commit, file and kind when something is found; the secret itself is not printed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from detect_secrets.core import baseline
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import default_settings

BASELINE, HISTORY = ".secrets.baseline", ".secrets.history"
_LOOKED_AT = (".", ":!requirements", f":!{BASELINE}", f":!{HISTORY}")


@dataclass
class Added:
    """The lines that commits added to one file, each once, and the newest commit of each."""

    lines: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def take(self, line: str, commit: str) -> None:
        """Note a line unless it is known."""
        if line not in self.seen:
            self.seen.add(line)
            self.lines.append(line)
            self.commits.append(commit)


def git(repository: Path, *words: str) -> Iterator[str]:
    """Yield the lines that git prints."""
    command = ["git", "-C", str(repository), "-c", "core.quotepath=off", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield line.decode("utf-8", errors="replace").rstrip("\r\n")
    if process.returncode:
        sys.exit(f"git {words[0]} failed: is {repository} a git repository?")


def added_lines(repository: Path, *paths: str) -> dict[str, Added]:
    """Return what was ever added, by file."""
    found: dict[str, Added] = {}
    commit = path = ""
    in_header = False
    words = ("log", "--all", "-p", "-U0", "--no-color", "--no-renames", "--no-ext-diff",
             "--diff-merges=first-parent", "--format=commit %H", "--", *paths)  # fmt: skip
    for line in git(repository, *words):
        if line.startswith("commit "):
            commit = line.removeprefix("commit ")
        elif line.startswith("diff --git "):
            in_header = True
        elif in_header and line.startswith("+++ "):
            path = line.removeprefix("+++ ").removeprefix("b/").strip('"')
        elif line.startswith("@@ "):
            in_header = False
        elif not in_header and line.startswith("+"):
            found.setdefault(path, Added()).take(line[1:], commit)
    return found


def known_hashes(repository: Path) -> set[str]:
    """Return the hashes of every false alarm that was ever noted."""
    text = "\n".join(added_lines(repository, BASELINE).get(BASELINE, Added()).lines)
    noted = repository / HISTORY
    told = noted.read_text(encoding="utf-8").splitlines() if noted.is_file() else []
    return {*re.findall(r'"hashed_secret": "(\w+)"', text), *(line.split()[0] for line in told)}


def main() -> int:
    """Scan; 1 when something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", type=Path, nargs="?", default=Path())
    parser.add_argument("--note", action="store_true", help=f"note false alarms in {HISTORY}")
    given = parser.parse_args()
    repository = given.repository.resolve()
    if "true" in git(repository, "rev-parse", "--is-shallow-repository"):
        sys.exit("the history is cut off: expected a full clone (git fetch --unshallow)")
    known, noted = known_hashes(repository), repository / BASELINE
    lines, found = 0, []
    with tempfile.TemporaryDirectory() as name, default_settings():
        if noted.is_file():  # its plugins and filters
            baseline.load(baseline.load_from_file(str(noted)), str(noted))
        for number, (path, added) in enumerate(added_lines(repository, *_LOOKED_AT).items()):
            lines += len(added.lines)
            # under its own name: what is looked for depends on the kind of file
            copy = Path(name) / str(number) / PurePosixPath(path).name
            copy.parent.mkdir()
            copy.write_text("\n".join(added.lines), encoding="utf-8")
            for secret in scan_file(str(copy)):
                if secret.secret_hash not in known:
                    found.append(f"{secret.secret_hash} {path}: {secret.type}\n")
                    print(f"{added.commits[secret.line_number - 1][:12]} {path}: {secret.type}")
    print(f"{len(found)} secrets in {lines:,} lines of the history")
    if given.note:
        with (repository / HISTORY).open("a", encoding="utf-8") as file:
            file.writelines(found)
    elif found:
        print("withdraw each where it is in use; a false alarm? `make secrets` notes it")
    return 1 if found and not given.note else 0


if __name__ == "__main__":
    sys.exit(main())
