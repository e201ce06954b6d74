"""Audits are plug-ins, ours included: how they are found and run."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass

from privsyn.auditing.evidence import Audit, Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.policy import Policy
from privsyn.auditing.verdict import PluginVersion
from privsyn.errors import PrivsynError

GROUP = "privsyn.audits"


@dataclass(frozen=True)
class Plugin:
    """An installed audit and the distribution that it comes from."""

    name: str
    distribution: str
    version: str
    entry_point: importlib.metadata.EntryPoint

    def load(self) -> Audit:
        """Import the audit."""
        loaded: Audit = self.entry_point.load()
        return loaded

    @property
    def identity(self) -> PluginVersion:
        """As it is named in the verdict."""
        return PluginVersion(self.name, self.distribution, self.version)


def installed() -> dict[str, Plugin]:
    """Every installed audit by name.

    Raises:
        PrivsynError: two distributions offer an audit of the same name.
    """
    found: dict[str, Plugin] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        distribution = point.dist.name if point.dist else "unknown"
        version = point.dist.version if point.dist else "unknown"
        if point.name in found and found[point.name].distribution != distribution:
            raise PrivsynError(
                f"{distribution} and {found[point.name].distribution} both offer an audit {point.name!r}: "
                "uninstall one of them"
            )
        found[point.name] = Plugin(point.name, distribution, version, point)
    return found


def run_plugins(plugins: Sequence[Plugin], evidence: Evidence, policy: Policy) -> list[Finding]:
    """The findings of some audits, at the error rates of the policy.

    Raises:
        PrivsynError: an audit returned findings in the name of another, or two of the same name.
    """
    findings = [finding for plugin in plugins for finding in _run(plugin, evidence, policy)]
    keys = [finding.key for finding in findings]
    for key in keys:
        if keys.count(key) > 1:
            raise PrivsynError(f"two findings are called {key}: an audit must give each its own scope")
    return findings


def _run(plugin: Plugin, evidence: Evidence, policy: Policy) -> list[Finding]:
    settings = Settings(alpha=policy.alpha(plugin.name), margin=policy.margin)
    with evidence.progress.stage(f"audit {plugin.name}", 1) as advance:
        findings = plugin.load()(evidence, settings)
        advance()
    stray = {finding.audit for finding in findings} - {plugin.name}
    if stray:
        raise PrivsynError(f"the audit {plugin.name!r} returned findings in the name of {sorted(stray)[0]!r}")
    return findings
