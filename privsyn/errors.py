"""The exceptions of privsyn, as one tree; the command line turns each into an exit code.

    PrivsynError                exit 2   wrong usage or bad input
    ├── RecipeError                      a recipe or policy that cannot be used as written
    ├── CohortError                      real images that cannot become a cohort
    ├── StudyError                       a study that lacks, or already has, what a command needs
    ├── CheckpointError                  a checkpoint that is cut short, altered or of another recipe
    ├── SyntheticError                   a synthetic set that cannot be read
    └── Refused                 exit 1   the input is valid, and the answer is no

Every message is one or two lines: what is wrong, where, and what to do.
"""

from __future__ import annotations


class PrivsynError(Exception):
    """Wrong usage or bad input; the message is meant for the user as it stands."""

    exit_code = 2


class RecipeError(PrivsynError):
    """A recipe or policy that cannot be used as written."""


class CohortError(PrivsynError):
    """Real images that cannot become a cohort."""


class StudyError(PrivsynError):
    """A study that lacks, or already has, what a command needs."""


class CheckpointError(PrivsynError):
    """A checkpoint that is cut short, altered, or made from another recipe."""


class SyntheticError(PrivsynError):
    """A synthetic set that cannot be read."""


class Refused(PrivsynError):
    """The input is valid and the answer is no: a failed verdict, a broken release."""

    exit_code = 1
