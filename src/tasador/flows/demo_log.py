"""What happens to a watched model, told line by line while it happens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tasador.core import clock
from tasador.flows.lifecycle import Lifecycle
from tasador.monitoring.verdict import Level
from tasador.records.journal import AuditEntry, Verdicts
from tasador.retraining.switch import CHALLENGER

#: Of what the watcher prints, the lines about retraining that the history does not have.
_OWN = ("not retrained", "the model is left")
_MOST_COLUMNS = 3


class Narrator:
    """Reads the history, the verdicts and the watcher's log, and tells what is new.

    Args:
        lifecycle: The model's.
        workspace: Where the watcher writes its log.
        say: Called with each line.
    """

    def __init__(self, lifecycle: Lifecycle, workspace: Path, say: Callable[[str], None]) -> None:
        self.retraining = self.canary = False
        self.failure = ""
        self._lifecycle, self._say = lifecycle, say
        self._log, self._read = workspace / "logs" / "watcher.log", 0
        self._told = {entry.id for entry in lifecycle.history(100)}
        self._level: Level | str = ""
        self._last = ""
        self._began = clock.seconds()

    def champion(self) -> str:
        """Return the champion's number."""
        return self._lifecycle.ledger.standing().champion

    def tail(self) -> list[str]:
        """Return the last lines of the watcher's log."""
        return self._log.read_text(errors="replace").splitlines()[-12:]

    def look(self) -> None:
        """Tell what is new since the last look."""
        self._verdict()
        self._policy()
        for entry in reversed(self._lifecycle.history(100)):
            if entry.id not in self._told:
                self._told.add(entry.id)
                self._entry(entry)

    def _tell(self, text: str) -> None:
        self._say(f"   +{clock.seconds() - self._began:3.0f} s  {text}")

    def _verdict(self) -> None:
        found = Verdicts(self._lifecycle.ledger.database).read(
            self._lifecycle.versions.name, limit=1
        )
        if not found or found[0].level == self._level:
            return
        body, self._level = found[0].body, found[0].level
        drift = sorted(
            ((one["psi"], one["name"]) for one in body["drift"] if one.get("psi") is not None),
            reverse=True,
        )[:_MOST_COLUMNS]
        psi = ", ".join(f"{name} {value:.2f}" for value, name in drift)
        level = self._level.replace("_", " ").upper()
        self._tell(
            f"watcher: {level}, {body['rows']} rows in its window" + (f"; PSI {psi}" if psi else "")
        )

    def _policy(self) -> None:
        with self._log.open(errors="replace") as file:
            file.seek(self._read)
            lines = file.readlines()
            self._read = file.tell()
        for line in lines:
            text = line.strip()
            same = re.sub(r"[\d.]+", "#", text)
            if text.startswith(_OWN) and same != self._last:
                self._last = same
                self._tell(f"watcher: {text}")

    def _entry(self, entry: AuditEntry) -> None:
        details = entry.details
        phase, version = str(details.get("phase", "")), details.get("version")
        if entry.action == "retrain":
            self.retraining = True
            if phase in ("failed", "interrupted"):
                self.failure = str(details.get("note"))
        if entry.action == "canary":
            self.canary = True
        if phase == "intent" and entry.action != "retrain":
            return
        if entry.action == "canary":
            text = f"canary of version {version}: {phase}, {details.get('note')}; {entry.reason}"
        else:
            alias = details.get("alias", "")
            text = f"{entry.action} {alias} {phase}".replace("  ", " ")
            text += f" (version {version}): {entry.reason}"
        if details.get("gates_summary"):
            text += f"; {details['gates_summary']}"
        self._tell(text)
        if details.get("alias") == CHALLENGER:
            for gate in details["gates"]["gates"]:
                self._say(f"            {gate['name']}: {gate['state']}, {gate['text']}")
