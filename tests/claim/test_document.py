from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privsyn.claim.document import Clipping, Mechanism, Query, mechanisms
from privsyn.cohort.cohort import Cohort
from privsyn.cohort.document import CohortDocument, SplitCounts
from privsyn.dp.accounting import epsilon
from privsyn.recipe import find_shipped, load_recipe
from privsyn.training.claiming import claim_of_training

HISTORY = (Query("dp-sgd", Mechanism(2.0, 0.032, 60), Clipping(0.001, 2, 4)),)


def cohort_of() -> Cohort:
    """A cohort of which only the document is known."""
    counts = {"train": SplitCounts(images=12345, patients=12345, classes={})}
    document = CohortDocument(8, 1, 8, ("a",), "patient", counts, fingerprint="f" * 64)
    return Cohort(Path(), document, np.empty((0, 8, 8, 1), np.uint8))


def claimed(*settings: str, history: tuple[Query, ...] = HISTORY) -> dict[str, Any]:
    recipe = load_recipe(find_shipped("recipes", "toy"), settings)
    return claim_of_training(recipe, cohort_of(), history, steps=60, weights_sha256="0" * 64).to_document()


def test_epsilon_follows_from_the_document_alone() -> None:
    """Anybody can recompute it from the mechanism and delta."""
    document = json.loads(json.dumps(claimed("privacy.dp=true")))
    parts = {key: document["mechanism"][key] for key in ("noise_multiplier", "sample_rate", "steps")}
    assert document["epsilon"] == epsilon([Mechanism(**parts)], document["delta"])
    assert document["delta"] == pytest.approx(1e-5)
    assert document["epsilon"] <= document["epsilon_rdp"]
    assert (document["kind"], document["neighbouring"]) == ("dp", "add-or-remove-one")


def test_nothing_counted_from_private_data_is_in_it() -> None:
    """The number of images that the cohort really has does not appear."""
    assert "12345" not in json.dumps(claimed("privacy.dp=true"))


def test_a_repeatable_noise_voids_the_claim() -> None:
    """`insecure_seed` is for tests, and the document says why it is not for release."""
    document = claimed("privacy.dp=true", "privacy.insecure_seed=1")
    assert document["valid_for_release"] is False
    assert "insecure_seed" in document["reason"]
    assert claimed("privacy.dp=true")["valid_for_release"] is True


def test_without_privacy_it_says_so_in_words() -> None:
    """No epsilon, but a sentence, and the unit that is not protected."""
    document = claimed(history=())
    assert document["kind"] == "none"
    assert "nothing bounds" in document["statement"]
    assert "epsilon" not in document


@pytest.mark.parametrize(("unit", "units"), [("image", "images"), ("file", "files"), ("study", "studies")])
def test_what_is_not_covered_depends_on_the_unit(unit: str, units: str) -> None:
    """A bound for less than a patient says that it is none for a patient with several."""
    finer = claimed("privacy.dp=true", f"privacy.unit={unit}")
    assert finer["unit"] == unit
    assert any(f"for 2, 4 and 8 {units} of one patient" in line for line in finer["not_covered"])
    assert not any("2, 4 and 8" in line for line in claimed("privacy.dp=true")["not_covered"])


def test_a_claim_per_image_says_what_it_is_worth_to_a_patient() -> None:
    """For 2, 4 and 8 images of one patient at the same delta: far more than so many times epsilon."""
    document = claimed("privacy.dp=true", "privacy.unit=image")
    epsilons = [entry["epsilon"] for entry in document["group"]]
    assert [entry["units"] for entry in document["group"]] == [2, 4, 8]
    assert document["epsilon"] < epsilons[0] < epsilons[1] < epsilons[2]
    assert epsilons[2] > 8 * document["epsilon"]
    assert claimed("privacy.dp=true")["group"] == []


def test_early_stopping_labels_range_and_validation_are_spoken_of() -> None:
    """Whatever could read private data is in the mechanism or named as not covered."""
    text = " ".join(claimed("privacy.dp=true")["not_covered"])
    for reading in ("label histogram", "value range", "Early stopping", "validation loss", "duplicates"):
        assert reading in text


def test_a_warm_up_and_a_public_start_are_in_the_claim() -> None:
    """The warm-up costs and is composed; public weights cost nothing and are named by their digest."""
    recipe = load_recipe(find_shipped("recipes", "toy"), ["privacy.dp=true", "warmup.images=3"])
    history = (Query("central-images", Mechanism(5.0, 1.0, 3)), *HISTORY)
    cohort = cohort_of()
    made = claim_of_training(recipe, cohort, history, steps=60, weights_sha256="0" * 64, init_sha256="1" * 64)
    document = made.to_document()
    assert document["mechanism"]["composed"] == [history[0].to_dict()]
    both, alone = (epsilon(mechanisms(each), document["delta"]) for each in (history, HISTORY))
    assert document["epsilon"] == both > alone
    assert document["public"]["init_from"] == {"weights_sha256": "1" * 64, "declaration": "public"}
