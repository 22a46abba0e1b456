"""One-step diffusion super-resolution by target score distillation (TSD-SR, arXiv 2411.18263)."""

__version__ = "0.1.0"
