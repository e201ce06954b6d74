"""Attacks that read evidence and return findings; a policy turns findings into a verdict."""
