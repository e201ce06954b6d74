"""`privsyn demo`: the whole chain on the digits that scikit-learn embeds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privsyn.cli.options import Force, Json, Settings
from privsyn.errors import StudyError

if TYPE_CHECKING:
    from rich.table import Table

    from privsyn.auditing.verdict import Verdict

STAGES = 7
WORST_FIRST = ("fail", "inconclusive", "accepted", "pass")

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of the demo's study.")]


def demo(
    out: Out = Path("privsyn-demo"), settings: Settings = None, force: Force = False, as_json: Json = False
) -> None:
    """Run the whole chain on embedded images of digits.

    Takes minutes on a laptop, without network. The verdict is whatever the audits find. Exit code 0 when
    the chain ran, whatever the verdict.
    """
    from privsyn.auditing.verdict import read_verdict
    from privsyn.cli.console import show

    make_room(out, force=force)
    document = run_chain(out, settings or ())
    report = Path(document["internal_report"]).resolve().as_uri()
    show(
        document,
        summary(document["claim"], read_verdict(document["verdict"])),
        f"open this report: {report}",
        as_json=as_json,
    )


def make_room(out: Path, *, force: bool) -> None:
    """Remove the study of an earlier demo, if told so; never anything that is not a study."""
    if not out.exists():
        return
    if not force:
        raise StudyError(
            f"{out} already exists: choose another place with --out, or pass --force to replace it"
        )
    if not (out / "study.toml").is_file():
        raise StudyError(f"{out} is not a study, so it is not replaced: choose another place with --out")
    shutil.rmtree(out)


def run_chain(out: Path, settings: Sequence[str]) -> dict[str, Any]:
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
    paths = {"study": out, "internal_report": internal, "public_report": public, "release": release}
    return {
        "claim": claim,
        "verdict": verdict.to_document(),
        **{name: str(path) for name, path in paths.items()},
    }


def summary(claim: dict[str, Any], verdict: Verdict) -> Table:
    """Claim, epsilon, the worst outcome of each audit, and the verdict."""
    from privsyn.claim.words import rounded_up
    from privsyn.cli.audit import measured
    from privsyn.cli.console import table

    private = claim["kind"] == "dp"
    rows: list[tuple[str, str, str]] = [
        ("claim", claim["kind"], f"unit: {claim['unit']}"),
        (
            "epsilon",
            rounded_up(claim["epsilon"]) if private else "-",
            f"delta {claim['delta']:.2g}" if private else "",
        ),
    ]
    for name in dict.fromkeys(rule.audit for rule in verdict.rules):
        rules = [rule for rule in verdict.rules if rule.audit == name]
        rules = [rule for rule in rules if rule.severity == "block"] or rules
        worst = min(rules, key=lambda rule: WORST_FIRST.index(rule.outcome))
        told = worst.reason or f"{worst.statistic}: {measured(worst)}"
        rows.append((f"audit {name}", worst.outcome, told))
    return table("", "result", "detail", rows=[*rows, ("verdict", verdict.outcome, "")])
