"""Claims for tests that write sets and statements."""

from __future__ import annotations

from privsyn.claim.document import (
    DP_SGD,
    Accountant,
    Bound,
    Claim,
    Clipping,
    Mechanism,
    ModelProvenance,
    PublicQuantities,
    Query,
)


def dp_claim(*, epsilon: float = 8.00001, delta: float = 1e-5, invalid: str = "") -> Claim:
    """A claim with a bound; `invalid` says why it must not be relied on."""
    sgd = Query(DP_SGD, Mechanism(1.0, 0.1, 100), Clipping(0.001, 4, 4))
    return Claim(
        unit="patient",
        statement="Adding or removing one patient changes little.",
        public=PublicQuantities(("a", "b"), 8, 1, (0, 255), "the whole recipe", 1000),
        provenance=ModelProvenance("0" * 64, "1" * 64, "2" * 64, "ab" * 32, 100),
        bound=Bound(
            epsilon=epsilon,
            delta=delta,
            epsilon_rdp=epsilon + 1,
            queries=(sgd,),
            expected_units=1000,
            accountant=Accountant("pld", "dp-accounting", "0.6.0"),
            not_covered=("Time that training took.",),
            invalid=invalid,
        ),
    )


def no_claim() -> Claim:
    """The claim of a model that was trained without differential privacy: none."""
    return Claim(
        unit="patient",
        statement="Trained without differential privacy.",
        public=PublicQuantities(("a", "b"), 8, 1, (0, 255), "the whole recipe"),
        provenance=ModelProvenance("0" * 64, "1" * 64, "2" * 64, "ab" * 32, 100),
    )
