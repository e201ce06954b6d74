"""The result of a recipient's check of a release. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from privsyn.strict_json import JsonObject, printable

VerificationOutcome = Literal["pass", "fail", "inconclusive"]
CheckState = Literal["ok", "failed", "open", "note"]


@dataclass(frozen=True)
class Check:
    """One check of a release, and what it found.

    Attributes:
        state: `open` makes the outcome inconclusive; `note` has no effect on it.
    """

    name: str
    state: CheckState
    words: str


@dataclass(frozen=True)
class ReleaseVerification:
    """What a check found; names that a terminal could misread are escaped.

    Attributes:
        outcome: `pass` if the bytes are whole, approved as the trust file demands, and no check failed;
            `inconclusive` if something could not be checked, above all who approved.
        statement: the in-toto document that was found, true or not; None if there is none.
        changed: files whose bytes are not those stated.
        missing: files that are stated and not there.
        extra: files, links and empty folders that are there and not stated.
        problems: what else is wrong with files, in words.
        checks: of signatures, approvals, status and claim, in order.
        approved_by: role of each person whose approval was counted, by the person's id.
    """

    folder: Path
    outcome: VerificationOutcome
    statement: JsonObject | None
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    problems: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    approved_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: intact and approved; 3: intact, but something could not be checked; 1: something is wrong."""
        return {"pass": 0, "inconclusive": 3, "fail": 1}[self.outcome]

    def to_dict(self) -> JsonObject:
        """One JSON document."""
        return {
            "schema_version": 1,
            "folder": printable(str(self.folder)),
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "changed": list(self.changed),
            "missing": list(self.missing),
            "extra": list(self.extra),
            "problems": list(self.problems),
            "checks": [asdict(check) for check in self.checks],
            "approved_by": dict(self.approved_by),
            "statement": self.statement,
        }

    def lines(self) -> list[str]:
        """The same for people, the outcome last."""
        lines = [
            f"{what}: {name}" for what in ("changed", "missing", "extra") for name in getattr(self, what)
        ]
        lines += [f"problem: {text}" for text in self.problems]
        lines = lines or ["every file is as stated"]
        lines += [f"{check.name}: {_MARKS[check.state]}{check.words}" for check in self.checks]
        return [*lines, f"outcome: {self.outcome}"]


_MARKS = {"ok": "", "failed": "REFUSED: ", "open": "OPEN: ", "note": "NOTE: "}
