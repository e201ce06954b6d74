"""Differential privacy for the unit: the only place that imports opacus and dp_accounting.

`sampling` draws units, `gradients` computes their gradients, `clipping` bounds and noises the sum of them,
`accounting` computes epsilon, `generators` provides the secret randomness.
"""
