"""What a release statement says about its set; `ReleasePredicate.to_document` is its only writer.

Nothing in it was measured on real data. What a recipient reads of it is in `privsyn.release.manifest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from privsyn.auditing.policy import ChecklistItem
from privsyn.auditing.verdict import RuleResult, Verdict
from privsyn.claim.document import Claim, CumulativeCost, LedgerEntry
from privsyn.claim.words import in_full
from privsyn.strict_json import JsonObject, JsonValue, spelled

NOT_PERFORMED = "not performed"
TEXT_POLICIES = {"refuse": "none found", "drop": "left out", "mask": "masked"}  # `data.text` of the recipe


@dataclass(frozen=True)
class ReleaseInfo:
    """Which release it is.

    Attributes:
        id: random, so that no two statements are equal.
        name: of the study.
        created: when it was drafted.
    """

    id: str
    name: str
    created: datetime


@dataclass(frozen=True)
class SetInfo:
    """The synthetic set.

    Attributes:
        generator: what drew it, as far as that is public.
    """

    images: int
    classes: tuple[str, ...]
    generator: Mapping[str, JsonValue]


@dataclass(frozen=True)
class PublicTextScan:
    """How `prepare` looked for text in the pixels of the cohort, without what it found.

    Attributes:
        looked_at: images, as the recipe declares; None means all.
        policy: what became of images with text, by a key of `TEXT_POLICIES`.
    """

    looked_at: int | None
    policy: str

    def to_dict(self) -> JsonObject:
        return {
            "outcome": "pass",
            "headers": "nothing of a source but its pixels is kept",
            "pixels": {
                "method": "OCR",
                "images": "all" if self.looked_at is None else f"{self.looked_at} at random",
                "withText": TEXT_POLICIES[self.policy],
            },
        }


@dataclass(frozen=True)
class LedgerAccount:
    """Where the ledger stood after the training, and what the training and all before it cost together."""

    entry: LedgerEntry
    cumulative: CumulativeCost | None

    def to_dict(self) -> JsonObject:
        return {
            "population": self.entry.population,  # opaque: whose images they were stays inside
            "entry": self.entry.entry,
            "head": self.entry.head,
            "cumulative": None if self.cumulative is None else self.cumulative.to_dict(),
        }


@dataclass(frozen=True)
class ReleaseTerms:
    """What is decided about a release when it is drafted.

    Attributes:
        authors: persons of the trust file who made the release and so cannot approve it.
        use: terms of use, in words.
        valid_days: how long the release may be relied on.
        supersedes: sha256 of the statement of the release that this one replaces.
    """

    authors: tuple[str, ...] = ()
    use: str | None = None
    valid_days: int = 365
    supersedes: str | None = None


@dataclass(frozen=True)
class ReleasePredicate:
    """The predicate of a release statement, but for the tree of its files.

    Attributes:
        claim: for the set; None if no model of the study drew it.
        account: of the study's model; None if it names no ledger.
        checklist: of the policy that judged the set.
        internal_report: sha256.
        text_scan: None if there was no scan for text.
    """

    release: ReleaseInfo
    set: SetInfo
    claim: Claim | None
    account: LedgerAccount | None
    checklist: tuple[ChecklistItem, ...]
    verdict: Verdict
    internal_report: str
    text_scan: PublicTextScan | None
    terms: ReleaseTerms
    valid_until: datetime

    def to_document(self) -> JsonObject:
        """The predicate, as JSON."""
        verdict, account = self.verdict, self.account
        return {
            "release": {
                "id": self.release.id,
                "name": self.release.name,
                "created": spelled(self.release.created),
                "privsynVersion": verdict.privsyn_version,
            },
            "set": {"synthetic": True, "images": self.set.images, "classes": list(self.set.classes)},
            "generator": {**self.set.generator, "recipe_sha256": verdict.inputs.recipe},
            "privacyClaim": _claim(self.claim),
            "source": {"population": None if account is None else account.entry.population},
            "ledger": None if account is None else account.to_dict(),
            "policy": {
                "title": verdict.policy.title,
                "purpose": verdict.policy.purpose,
                "sha256": verdict.inputs.policy,
            },
            "checklist": [item.model_dump(mode="json") for item in self.checklist],
            "verdict": _verdict(verdict),
            "evidence": {"internalReport": self.internal_report},
            "identifierScan": NOT_PERFORMED if self.text_scan is None else self.text_scan.to_dict(),
            "scorecard": NOT_PERFORMED,
            "authors": sorted(set(self.terms.authors)),
            "useTerms": self.terms.use,
            "validUntil": spelled(self.valid_until),
            "supersedes": self.terms.supersedes,
        }


def _claim(claim: Claim | None) -> JsonObject:
    document: JsonObject = {"kind": "none"} if claim is None else claim.public_document()
    return {**document, "in_words": in_full(claim)}


def _verdict(verdict: Verdict) -> JsonObject:
    """What of a verdict may leave."""
    return {
        "outcome": verdict.outcome,
        "partial": verdict.partial,
        "attempt": verdict.attempt,
        "rules": [_rule(rule) for rule in verdict.rules],
        "plugins": [{"name": plugin.name, "version": plugin.version} for plugin in verdict.plugins],
    }


def _rule(rule: RuleResult) -> JsonObject:
    """Neither value, nor interval, nor reason: they were measured on real data."""
    return {
        "id": rule.id,
        "severity": rule.severity,
        "outcome": rule.outcome,
        "audit": rule.audit,
        "statistic": rule.statistic,
        "scope": dict(rule.scope),
        "side": rule.side,
        "op": rule.op,
        "threshold": rule.threshold,
        "rationale": rule.rationale,
        "waivable_by": list(rule.waivable_by),
    }
