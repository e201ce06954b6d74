"""Image embeddings by name, and exact nearest neighbours in them."""
