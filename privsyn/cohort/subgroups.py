"""Subgroups: a short text for each image, such as a sex, an age band, a site or a scanner.

By them the quality audits can tell for whom a synthetic set loses. They are read only if the user names
their column, they stay in the cohort, and training has no use for them. A subgroup is a coarse group: a
column of many texts (a date of birth, a postal code) would single patients out, and is refused as a whole.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator

from privsyn.cohort.entries import SourceEntry
from privsyn.errors import CohortError

MOST_SUBGROUPS = 32  # different subgroups in a source
LONGEST_SUBGROUP = 64  # characters of one


def subgroup_name(text: str) -> str:
    """A subgroup as it is compared and kept: NFC, without blanks around it; "" is unknown."""
    return unicodedata.normalize("NFC", text).strip()


def coarse(entries: Iterable[SourceEntry], forget: Callable[[], None]) -> Iterator[SourceEntry]:
    """The entries as they are, as long as their subgroups are few and short.

    Args:
        forget: is called before the error, so that nothing is kept of texts that single patients out.

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
        return f"{entry.where}: its subgroup has characters that are no text"
    return ""
