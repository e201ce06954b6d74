"""What attacks on a synthetic set or a model have in common."""
