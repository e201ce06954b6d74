"""The two HTML reports of an audit: an internal one with everything, a public one with aggregates only."""
