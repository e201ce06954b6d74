"""Class-conditional diffusion.

`process` has the noise and the prediction targets, `networks` the networks, `model` both together, `batches`
draws what a training step shows them, `samplers` go from noise back to images, and `check` refuses recipes
that name a network or a sampler that does not exist. `interchange` converts models of diffusers.
"""
