"""What a GPU does with the networks of Stable Diffusion 1.5, without their weights: python -m benchmarks.gpu."""
