"""From a cohort and a recipe to a model: one loop, with differential privacy or without."""
