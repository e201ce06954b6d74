"""Releases: `draft` assembles one, `approve` and `seal` sign it, and recipients `verify` it offline."""
