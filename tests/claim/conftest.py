"""What the claim's tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from privsyn.cohort.cohort import Cohort
from privsyn.cohort.document import CohortDocument, SplitCounts


@pytest.fixture(scope="session")
def nobody() -> Cohort:
    """A cohort of which only the document is known."""
    counts = {"train": SplitCounts(images=12345, patients=12345, classes={})}
    document = CohortDocument(8, 1, 8, ("a",), "patient", counts, fingerprint="f" * 64)
    return Cohort(Path(), document, np.empty((0, 8, 8, 1), np.uint8))
