"""The training log `model/train.jsonl`: losses without noise. INTERNAL."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from privsyn.dp.clipping import StepFacts
from privsyn.files import write_text

LOG_NOTICE = "INTERNAL: losses of private data without noise; this file must not leave the study"


def begin_log(log: Path) -> None:
    """Write a log that holds the notice alone."""
    write_text(log, json.dumps({"notice": LOG_NOTICE}) + "\n")


def mean_loss(recent: Sequence[StepFacts]) -> float:
    """Mean of the finite losses; NaN if there is none."""
    known = [facts.loss for facts in recent if math.isfinite(facts.loss)]
    return sum(known) / len(known) if known else math.nan


def log_line(done: int, recent: Sequence[StepFacts]) -> str:
    """One line about the steps since the line before."""
    loss = mean_loss(recent)
    facts = {"step": done, "loss": loss if math.isfinite(loss) else None, "over_steps": len(recent)}
    units, dropped = (sum(getattr(step, name) for step in recent) for name in ("units", "dropped"))
    return json.dumps(facts | {"units": units, "dropped_units": dropped}) + "\n"


def shorten_log(log: Path, step: int) -> None:
    """Drop what a killed run logged after its last checkpoint; those steps are taken again."""
    lines = (
        log.read_text(encoding="utf-8").splitlines() if log.exists() else [json.dumps({"notice": LOG_NOTICE})]
    )
    write_text(log, "".join(f"{line}\n" for line in lines if _logged_step(line) <= step))


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line).get("step", 0))
    except ValueError:
        return math.inf
