"""What leaves: `draft` puts it together, `manifest` says what it is, and `verify` checks it elsewhere."""
