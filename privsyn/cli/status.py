"""`privsyn status`: what a study has, what is stale and what to do next."""

from __future__ import annotations

from dataclasses import asdict

from privsyn.cli.options import HERE, Json, StudyFolder


def status(study: StudyFolder = HERE, as_json: Json = False) -> None:
    """Show what the study has, what is stale and what to do next."""
    from privsyn.cli.console import show, table
    from privsyn.status import advice, status

    stations, remedies = status(study), advice(study)
    following = next((station.next for station in stations if station.next), None)
    rows = [(station.name, station.state, station.detail, station.next) for station in stations]
    show(
        {"stations": [asdict(station) for station in stations], "advice": remedies, "next": following},
        table("station", "state", "detail", "next", rows=rows),
        *remedies,
        f"next: {following}" if following else "nothing is missing and nothing is stale",
        as_json=as_json,
    )
