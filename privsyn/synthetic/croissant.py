"""Croissant 1.1 metadata (MLCommons, JSON-LD) of a synthetic set.

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html. Left out because only whoever
publishes can know them: datePublished, license, creator, url, citeAs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from privsyn.files import tree_digest
from privsyn.strict_json import JsonObject, JsonValue
from privsyn.synthetic.card import SHARDS, SUMMARY, TAGS

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
PARQUET = "application/x-parquet"


def croissant(
    *, name: str, classes: Sequence[str], shards: Mapping[str, tuple[str, int]], claim: str
) -> JsonObject:
    """The JSON-LD document.

    Args:
        shards: relative path to (sha256 hex, size in bytes).
        claim: the privacy claim in words.
    """
    digest = tree_digest({path: sha256 for path, (sha256, _) in shards.items()})
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "description": SUMMARY,
        "version": f"1.0.0+{digest[:12]}",  # build metadata: tells two sets of one name apart
        "keywords": list(TAGS),
        "rai:dataCollection": "Drawn from a generative model; nothing was collected for this set.",
        "rai:dataLimitations": "Not for diagnosis. Class proportions were chosen, not observed.",
        "rai:personalSensitiveInformation": claim,
        "rai:dataUseCases": "Testing methods and software, teaching, training beside real images.",
        "rai:dataBiases": "Those of the images that the model learnt from; rare findings may be missing.",
        "rai:dataReleaseMaintenancePlan": "A release can be revoked: ask its sender for the status list.",
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": "sampling from a diffusion model that was trained on real images",
            "prov:wasAssociatedWith": {"@type": "prov:SoftwareAgent", "prov:label": "privsyn"},
        },
        "distribution": [*_files(shards), _shard_set()],
        "recordSet": [_images(_source(shards)), _labels(classes)],
    }


def _files(shards: Mapping[str, tuple[str, int]]) -> list[JsonValue]:
    return [
        {
            "@type": "cr:FileObject",
            "@id": path,
            "name": path,
            "contentUrl": path,
            "contentSize": f"{size} B",
            "encodingFormat": PARQUET,
            "sha256": digest,
        }
        for path, (digest, size) in shards.items()
    ]


def _shard_set() -> JsonObject:
    return {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "encodingFormat": PARQUET,
        "includes": SHARDS,
    }


def _source(shards: Mapping[str, tuple[str, int]]) -> JsonObject:
    """mlcroissant checks the digest of a file that records come from, but not of the files in a set."""
    if len(shards) == 1:
        return {"fileObject": {"@id": next(iter(shards))}}
    return {"fileSet": {"@id": "shards"}}


def _images(source: JsonObject) -> JsonObject:
    image = {**source, "extract": {"column": "image"}, "transform": {"jsonPath": "bytes"}}
    label = {**source, "extract": {"column": "label"}}
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "field": [
            {**_field("images/image", "sc:ImageObject"), "source": image},
            {
                **_field("images/label", "cr:Int64"),
                "references": {"field": {"@id": "labels/label"}},
                "source": label,
            },
        ],
    }


def _labels(classes: Sequence[str]) -> JsonObject:
    return {
        "@type": "cr:RecordSet",
        "@id": "labels",
        "name": "labels",
        "dataType": "sc:Enumeration",
        "key": {"@id": "labels/label"},
        "field": [_field("labels/label", "cr:Int64"), _field("labels/name", "sc:Text")],
        "data": [{"labels/label": label, "labels/name": name} for label, name in enumerate(classes)],
    }


def _field(identifier: str, data_type: str) -> JsonObject:
    return {"@type": "cr:Field", "@id": identifier, "name": identifier.split("/")[1], "dataType": data_type}


# The standard context, in full, so that no reader has to fetch it.
_CONTEXT: JsonObject = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
