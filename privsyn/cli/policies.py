"""`privsyn policies`: the data steward's files."""

from __future__ import annotations

from pathlib import Path

import typer

from privsyn.cli.options import Force, Json, group
from privsyn.cli.shipped import Name, Source, Target, copy_shipped, list_shipped, show_shipped

app = group("policies")


@app.callback(invoke_without_command=True)
def policies(context: typer.Context, as_json: Json = False) -> None:
    """List the policies; show, copy or check one."""
    if context.invoked_subcommand is None:
        list_shipped("policies", as_json=as_json, counts=_counts)


def _counts(file: Path) -> dict[str, int]:
    from privsyn.auditing.policy import load_policy

    policy = load_policy(file)
    return {"rules": len(policy.rules), "questions": len(policy.checklist)}


@app.command("show")
def show_policy(name: Name, as_json: Json = False) -> None:
    """Print one policy as it stands."""
    show_shipped("policies", name, as_json=as_json)


@app.command("copy")
def copy_policy(name: Name, file: Target, force: Force = False, as_json: Json = False) -> None:
    """Copy one policy to a file of yours."""
    copy_shipped("policies", name, file, force=force, as_json=as_json)


@app.command("check")
def check_policy(file: Source, as_json: Json = False) -> None:
    """Check that a policy can be used, and count its rules and questions; `--json` prints them."""
    from privsyn.auditing.policy import load_policy
    from privsyn.cli.console import show

    policy = load_policy(file)
    document = {"file": str(file), "policy": policy.model_dump(mode="json")}
    counted = f"{len(policy.rules)} rules, {len(policy.checklist)} questions"
    show(document, f"{file} is a policy that can be used ({counted})", as_json=as_json)
