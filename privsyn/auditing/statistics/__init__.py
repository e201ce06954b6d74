"""Statistics shared by audits: numbers in, numbers out."""
