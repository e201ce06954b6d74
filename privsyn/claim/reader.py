"""Reads a privacy claim: a document becomes a `Claim`, or is refused with the field that is wrong."""

from __future__ import annotations

from typing import Any

from privsyn.claim.document import (
    SCHEMA_VERSION,
    UNITS,
    WHAT,
    Accountant,
    Bound,
    CanaryCommitment,
    Claim,
    Clipping,
    CumulativeCost,
    GroupEpsilon,
    LedgerEntry,
    Mechanism,
    ModelProvenance,
    PublicQuantities,
    Query,
)
from privsyn.strict_json import Fields


def read_claim(document: Any, what: str = WHAT) -> Claim:
    """Parse `model/privacy.json`; fields that this version does not know are not carried on.

    Args:
        what: named in messages.

    Raises:
        Refused: it is not a claim of this version.
    """
    fields = Fields(document, what)
    fields.need_version(SCHEMA_VERSION)
    canaries, ledger, total = (fields.document.get(key) for key in ("canaries", "ledger", "cumulative"))
    return Claim(
        unit=fields.choice("unit", UNITS),
        statement=fields.text("statement"),
        public=_public(fields.fields("public")),
        provenance=_provenance(fields.fields("provenance")),
        bound=_bound(fields) if fields.one_of("kind", ("dp", "none")) == "dp" else None,
        public_data=bool(fields.document.get("public_data")),
        imported=bool(fields.document.get("imported")),
        canaries=None if canaries is None else _canaries(fields.fields("canaries")),
        ledger=None if ledger is None else _ledger(fields.fields("ledger")),
        cumulative=None if total is None else _cumulative(fields.fields("cumulative")),
    )


def _bound(fields: Fields) -> Bound:
    mechanism, accountant = fields.fields("mechanism"), fields.fields("accountant")
    queries = [read_query(each) for each in mechanism.objects("composed")]
    valid = fields.document.get("valid_for_release") is not False
    reason = fields.text("reason") if "reason" in fields.document else ""
    return Bound(
        epsilon=fields.number("epsilon"),
        delta=fields.number("delta"),
        epsilon_rdp=fields.number("epsilon_rdp"),
        queries=(*queries, read_query(mechanism)),
        expected_units=mechanism.integer("expected_units", least=1),
        accountant=Accountant(*(accountant.text(key) for key in ("name", "library", "version"))),
        group=tuple(
            GroupEpsilon(each.integer("units", least=1), each.number("epsilon"), each.number("delta"))
            for each in fields.objects("group")
        ),
        not_covered=fields.texts("not_covered"),
        invalid="" if valid else reason or "it is marked as not valid for a release",
        neighbouring=fields.text("neighbouring"),
        sampling=mechanism.text("sampling"),
        noisy_units=mechanism.number("noisy_units") if "noisy_units" in mechanism.document else None,
    )


def read_query(fields: Fields) -> Query:
    """Parse what `Query.to_dict` writes."""
    numbers = Mechanism(
        fields.number("noise_multiplier"), fields.number("sample_rate"), fields.integer("steps", least=0)
    )
    clipping = None
    if "clip_norm" in fields.document:
        clipping = Clipping(
            fields.number("clip_norm"),
            fields.integer("noise_multiplicity", least=1),
            fields.integer("max_images_per_unit", least=1),
        )
    return Query(fields.text("name"), numbers, clipping)


def _public(fields: Fields) -> PublicQuantities:
    known = fields.document
    low, high = fields.list("value_range")
    return PublicQuantities(
        classes=fields.texts("classes"),
        size=fields.integer("size", least=1),
        channels=fields.integer("channels", least=1),
        value_range=(int(low), int(high)),
        hyper_parameters=fields.text("hyper_parameters") if "hyper_parameters" in known else "",
        expected_units=fields.integer("expected_units", least=1) if "expected_units" in known else None,
        init_sha256=fields.fields("init_from").digest("weights_sha256") if "init_from" in known else None,
        class_counts="class_counts" in known,
    )


def _provenance(fields: Fields) -> ModelProvenance:
    return ModelProvenance(
        recipe_sha256=fields.text("recipe_sha256"),
        cohort_fingerprint=fields.text_or_none("cohort_fingerprint"),
        cohort_sha256=fields.text_or_none("cohort_sha256"),
        weights_sha256=fields.text("weights_sha256"),
        steps_done=fields.integer("steps_done", least=0),
        imported_sha256=fields.text_or_none("imported_sha256"),
    )


def _canaries(fields: Fields) -> CanaryCommitment:
    return CanaryCommitment(
        fields.integer("planted", least=1), fields.text("commitment"), fields.text("statement")
    )


def _ledger(fields: Fields) -> LedgerEntry:
    return LedgerEntry(fields.text("population"), fields.integer("entry", least=1), fields.text("head"))


def _cumulative(fields: Fields) -> CumulativeCost:
    return CumulativeCost(
        unit=fields.text("unit"),
        neighbouring=fields.text("neighbouring"),
        epsilon=fields.number_or_none("epsilon"),
        epsilon_rdp=fields.number_or_none("epsilon_rdp"),
        delta=fields.number_or_none("delta"),
        charges=fields.integer("charges", least=0),
        finite=bool(fields.document.get("finite")),
        note=fields.text("note"),
    )
