"""Differential privacy for the unit: the only place that imports opacus and dp_accounting.

`sampling` draws units, `clipping` bounds what each of them can change, `accounting` says what it cost,
`generators` is where the secret randomness comes from.
"""
