"""What audits of usefulness have in common."""
