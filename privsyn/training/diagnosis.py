"""Detects trainings that diverge or learn nothing.

Only without differential privacy: with it, losses are private and must not be acted on.
"""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path

from privsyn.errors import PrivsynError

WINDOW = 20  # steps whose mean loss counts; single steps are noisy
DIVERGED = 3.0  # times the loss of a network that says nothing
DEAD = 0.97  # share of that loss, still there at the end
SHORT = 100  # steps; a shorter run says little


class Watch:
    """Looks at each step's loss and stops a run that is lost.

    A fresh network says zero, so its loss is the mean square of the target: what a network reaches that has
    learned nothing. A resumed run measures against the first steps after resuming.
    """

    def __init__(self) -> None:
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def see(self, step: int, loss: float) -> None:
        """Take note of a step.

        Raises:
            PrivsynError: the loss is no longer finite, or far above that of a network with constant output.
        """
        if not math.isfinite(loss):
            raise PrivsynError(
                f"the loss is no longer finite at step {step}: lower train.learning_rate, or set "
                "train.precision to float32; then train again with --force"
            )
        self._recent.append(loss)
        if len(self._first) < WINDOW:
            self._first.append(loss)
        first, now = _mean(self._first), _mean(self._recent)
        if len(self._recent) == WINDOW and now > DIVERGED * first:
            raise PrivsynError(
                f"training diverged: the loss rose from {first:.3g} to {now:.3g} by step {step}; lower "
                "train.learning_rate or raise train.warmup_steps, then train again with --force"
            )


def dead(log: Path) -> str:
    """What to say of a finished training without privacy whose loss did not fall; "" if it did.

    Args:
        log: `model/train.jsonl`.
    """
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    steps = max((line.get("step", 0) for line in lines), default=0)
    if steps < SHORT or len(losses) < 4:
        return ""
    first, last = losses[0], _mean(losses[-2:])
    if last < DEAD * first:
        return ""
    return (
        f"the loss did not fall ({first:.3g} at first, {last:.3g} at the end): the model has learned next to "
        "nothing; raise train.learning_rate or train.steps, and look at the images of `privsyn prepare`"
    )


def _mean(losses: list[float] | deque[float]) -> float:
    return sum(losses) / len(losses)
