"""What reports and status read of a synthetic set's provenance: which model drew it, and how.

The only place that knows the keys.
"""

from __future__ import annotations

from collections.abc import Mapping

from privsyn.strict_json import JsonObject, JsonValue

Provenance = Mapping[str, JsonValue]

PUBLIC_KEYS = (
    "generator", "version", "sampler", "steps", "eta", "churn", "guidance_scale", "guidance_rescale",
    "threshold", "seed", "model_sha256", "near_copies_rejected",
)  # fmt: skip


def model_digest(provenance: Provenance | None) -> str | None:
    """sha256 (hex) of the weights that drew the set; None if no model of a study did."""
    digest = (provenance or {}).get("model_sha256")
    return None if digest is None else str(digest)


def near_copies_rejected(provenance: Provenance | None) -> bool:
    """Whether images were left out because they came too near to a training image."""
    return bool((provenance or {}).get("near_copies_rejected"))


def image_count(provenance: Provenance | None) -> int:
    """Number of images that were drawn."""
    return int(str((provenance or {})["count"]))


def all_facts(provenance: Provenance | None) -> JsonObject:
    """Everything that is recorded, by name; INTERNAL."""
    return dict(provenance or {})


def public_facts(provenance: Provenance | None) -> JsonObject:
    """What of it may leave."""
    known = provenance or {}
    return {key: known[key] for key in PUBLIC_KEYS if key in known}
