"""First-party audits, one file each, discovered through the entry-point group `privsyn.audits`."""

__version__ = "1"
