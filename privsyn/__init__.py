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
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privsyn.audit.run import audit
    from privsyn.cohort.prepare import prepare
    from privsyn.release.verify import verify
    from privsyn.sample import sample
    from privsyn.study import init
    from privsyn.train import train

__version__ = "0.1.0"
__distribution__ = "privsyn"
__all__ = ["__version__", "audit", "init", "prepare", "sample", "train", "verify"]

_HOMES = {
    "audit": "privsyn.audit.run",
    "init": "privsyn.study",
    "prepare": "privsyn.cohort.prepare",
    "sample": "privsyn.sample",
    "train": "privsyn.train",
    "verify": "privsyn.release.verify",
}


class _CallableModule(ModuleType):
    """`privsyn.train(...)` is the verb and `privsyn.train` its module: the module calls the verb."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _verb(self.__name__.rpartition(".")[2])(*args, **kwargs)


class _Package(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:  # on first use, so that `import privsyn` stays light
            return _verb(name)
        raise AttributeError(f"module 'privsyn' has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


def _verb(name: str) -> Any:
    return getattr(importlib.import_module(_HOMES[name]), name)


sys.modules[__name__].__class__ = _Package
