"""Class-conditional diffusion.

`process` is the noise and what may be predicted of it, `unet` the network, `model` both together, `batches`
what a training step shows them, `samplers` the way back from noise to images.
"""
