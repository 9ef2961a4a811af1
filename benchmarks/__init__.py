"""Speed and memory on the paper's problems, beside the general ways and PyTorch: ``python -m benchmarks``."""
