"""Subgroups: a short text for each image, such as a sex, an age band, a site or a scanner.

The quality audits compare them, to show for which patients a synthetic set is worse. Subgroups are read only
if the user names their column, they stay in the cohort, and training does not use them. A subgroup is coarse:
a column with many different texts (a date of birth, a postal code) would identify patients, and is refused.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator

from privsyn.cohort.entries import SourceEntry
from privsyn.errors import CohortError

MOST_SUBGROUPS = 32  # different ones in a source
LONGEST_SUBGROUP = 64  # characters of one


def subgroup_name(text: str) -> str:
    """A subgroup in the form in which it is compared and kept: Unicode NFC, stripped; "" is unknown."""
    return unicodedata.normalize("NFC", text).strip()


def coarse(entries: Iterable[SourceEntry], forget: Callable[[], None]) -> Iterator[SourceEntry]:
    """The entries unchanged, as long as their subgroups are few and short.

    Args:
        forget: called before the error, so that no text that would identify patients is kept.

    Raises:
        CohortError: more than `MOST_SUBGROUPS` are different, or one is longer than `LONGEST_SUBGROUP`
            characters or is not printable text.
    """
    known: set[str | None] = {None}  # as the source spells them
    names: set[str] = set()
    for entry in entries:
        if entry.subgroup not in known:
            known.add(entry.subgroup)
            names.add(subgroup_name(entry.subgroup or ""))
            if fault := _fault(entry, names):
                forget()
                raise CohortError(
                    f"{fault}: a subgroup is a coarse group, such as an age band, and the column that "
                    "--column subgroup=... names would single patients out"
                )
        yield entry


def _fault(entry: SourceEntry, names: set[str]) -> str:
    if len(names) > MOST_SUBGROUPS:
        return f"there are more than {MOST_SUBGROUPS} different subgroups"
    name = subgroup_name(entry.subgroup or "")
    if len(name) > LONGEST_SUBGROUP:
        return f"{entry.where}: its subgroup has more than {LONGEST_SUBGROUP} characters"
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        return f"{entry.where}: its subgroup has characters that are not text"
    return ""
