"""The command line as one click command, its commands in the order of use."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import privsyn
from privsyn.cli import keys, ledger, policies, recipes, release, trust
from privsyn.cli.audit import audit
from privsyn.cli.demo import demo
from privsyn.cli.export import export
from privsyn.cli.import_ import import_
from privsyn.cli.init import init
from privsyn.cli.options import group
from privsyn.cli.plan import plan
from privsyn.cli.prepare import prepare
from privsyn.cli.report import report
from privsyn.cli.sample import sample
from privsyn.cli.status import status
from privsyn.cli.train import train
from privsyn.cli.verify import verify

VERBS = (demo, init, status, prepare, plan, train, sample, audit, report, verify, export, import_)
COMMAND_GROUPS = (recipes.app, policies.app, ledger.app, keys.app, trust.app, release.app)
ORDER = (
    "demo", "init", "status", "recipes", "policies", "ledger",
    "prepare", "plan", "train", "sample", "audit", "report",
    "keys", "trust", "release", "verify", "export", "import",
)  # fmt: skip


def command() -> Any:
    """Build the click command `privsyn` with all of its sub-commands."""
    app = group("privsyn")
    app.callback()(_root)
    for verb in VERBS:
        app.command(verb.__name__.rstrip("_"))(verb)
    for sub in COMMAND_GROUPS:
        app.add_typer(sub)
    made: Any = typer.main.get_command(app)
    made.commands = {name: made.commands[name] for name in ORDER}
    return made


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"privsyn {privsyn.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
) -> None:
    """Share medical images without sharing patients.

    Train a diffusion model on real images, draw a synthetic set, audit it for leaks and release it. To see
    all steps on a laptop, run `privsyn demo`; in a study, `privsyn status` names the next command.

    Commands use the study in the current folder, or the one that --study DIR or $PRIVSYN_STUDY names.

    Exit codes: 0 done or passed, 1 failed or refused, 2 wrong usage or bad input, 3 inconclusive.
    """
