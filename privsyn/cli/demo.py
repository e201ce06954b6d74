"""`privsyn demo`: the whole chain on the digits that scikit-learn embeds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privsyn.cli.options import Force, Json, Settings
from privsyn.errors import StudyError

if TYPE_CHECKING:
    from rich.table import Table

    from privsyn.auditing.verdict import Verdict
    from privsyn.claim.document import Claim
    from privsyn.strict_json import JsonObject

STAGES = 7
OUTCOMES_WORST_FIRST = ("fail", "inconclusive", "accepted", "pass")

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of the demo's study.")]


def demo(
    out: Out = Path("privsyn-demo"), settings: Settings = None, force: Force = False, as_json: Json = False
) -> None:
    """Run the whole chain on embedded images of digits.

    Takes minutes on a laptop, without network. The verdict is whatever the audits find. Exit code 0 when
    the chain ran, whatever the verdict.
    """
    from privsyn.cli.console import show

    make_room(out, force=force)
    found = run_chain(out, settings or ())
    show(
        found.to_document(),
        summary(found.claim, found.verdict),
        f"open this report: {found.internal_report.resolve().as_uri()}",
        as_json=as_json,
    )


def make_room(out: Path, *, force: bool) -> None:
    """Remove the study of an earlier demo with `force`; never anything that is not a study."""
    if not out.exists():
        return
    if not force:
        raise StudyError(
            f"{out} already exists: choose another place with --out, or pass --force to replace it"
        )
    if not (out / "study.toml").is_file():
        raise StudyError(f"{out} is not a study, so it is not replaced: choose another place with --out")
    shutil.rmtree(out)


@dataclass(frozen=True)
class Demo:
    """What the chain left behind."""

    claim: Claim
    verdict: Verdict
    study: Path
    internal_report: Path
    public_report: Path
    release: Path

    def to_document(self) -> JsonObject:
        """What `privsyn demo --json` prints."""
        return {
            "claim": self.claim.to_document(),
            "verdict": self.verdict.to_document(),
            "study": str(self.study),
            "internal_report": str(self.internal_report),
            "public_report": str(self.public_report),
            "release": str(self.release),
        }


def run_chain(out: Path, settings: Sequence[str]) -> Demo:
    """Every station in turn, with a headline each; the same functions that the single commands call."""
    from privsyn.auditing.run import audit
    from privsyn.cli.console import TerminalProgress, console
    from privsyn.cohort.prepare import prepare
    from privsyn.release.draft import draft
    from privsyn.report.html import report
    from privsyn.study import init
    from privsyn.synthetic.sampling import sample
    from privsyn.training.loop import train

    screen, progress = console(stderr=True), TerminalProgress()

    def headline(number: int, name: str, what: str) -> None:
        screen.print(f"{number}/{STAGES} {name}: {what}", style="bold")

    headline(1, "init", f"a study in {out} with the recipe digits and the policy internal-review")
    study = init(out, recipe="digits", policy="internal-review", settings=settings)
    headline(2, "prepare", "1,797 real images of handwritten digits, split into train, holdout and test")
    prepare(study, "digits", progress=progress)
    headline(3, "train", "a diffusion model with differential privacy")
    claim = train(study, dp=True, progress=progress)
    headline(4, "sample", "a synthetic set from the model")
    sample(study, progress=progress)
    headline(5, "audit", "attacks on the synthetic set and the model, judged by the policy")
    verdict = audit(study, progress=progress)
    headline(6, "report", "for the inside and for the public")
    internal, public = report(study, progress=progress)
    headline(7, "release draft", "what would leave the house, if people approved it")
    release = draft(study)
    return Demo(claim, verdict, out, internal, public, release)


def summary(claim: Claim, verdict: Verdict) -> Table:
    """Claim, epsilon, the worst outcome of each audit, and the verdict."""
    from privsyn.claim.words import rounded_up, why_none
    from privsyn.cli.audit import measured
    from privsyn.cli.console import table

    rows = [
        ("claim", claim.kind, f"NOT VALID: {why_none(claim)}" if why_none(claim) else f"unit: {claim.unit}"),
        (
            "epsilon",
            rounded_up(claim.bound.epsilon) if claim.bound else "-",
            f"delta {rounded_up(claim.bound.delta)}" if claim.bound else "",
        ),
    ]
    for name in dict.fromkeys(rule.audit for rule in verdict.rules):
        rules = [rule for rule in verdict.rules if rule.audit == name]
        rules = [rule for rule in rules if rule.severity == "block"] or rules
        worst = min(rules, key=lambda rule: OUTCOMES_WORST_FIRST.index(rule.outcome))
        told = worst.reason or f"{worst.statistic}: {measured(worst)}"
        rows.append((f"audit {name}", worst.outcome, told))
    return table("", "result", "detail", rows=[*rows, ("verdict", verdict.outcome, "")])
