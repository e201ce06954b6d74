"""Share medical images without sharing patients.

A tour in the order of use: `prepare` real images as a cohort, `train` a diffusion model on it (with
differential privacy for the patient, if asked), `sample` a synthetic set, `audit` it with attacks that
prove on themselves that they can find a leak, and `verify` the release that leaves. Each is also a
command: `privsyn --help`.

    >>> import privsyn
    >>> study = privsyn.init("study", recipe="toy", policy="internal-review")     # doctest: +SKIP
    >>> privsyn.prepare(study, "digits"), privsyn.train(study, dp=True)           # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privsyn.auditing.run import audit
    from privsyn.cohort.prepare import prepare
    from privsyn.release.verify import verify
    from privsyn.study import init
    from privsyn.synthetic.sampling import sample
    from privsyn.training.loop import train

__version__ = "0.1.0"
__distribution__ = "privsyn"
__all__ = ["__version__", "audit", "init", "prepare", "sample", "train", "verify"]

_VERBS = {
    "audit": "privsyn.auditing.run",
    "init": "privsyn.study",
    "prepare": "privsyn.cohort.prepare",
    "sample": "privsyn.synthetic.sampling",
    "train": "privsyn.training.loop",
    "verify": "privsyn.release.verify",
}


def __getattr__(name: str) -> Any:
    """Import a verb on first use, so that `import privsyn` loads neither torch nor pandas."""
    if name not in _VERBS:
        raise AttributeError(f"module 'privsyn' has no attribute {name!r}")
    return getattr(importlib.import_module(_VERBS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
