"""Audits: attacks and quality measures that read `evidence` and return `findings`, judged by a `policy`."""
