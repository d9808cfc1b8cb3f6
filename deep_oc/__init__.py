"""Deep one-class classification in JAX: learn from normal images alone."""

__version__ = '0.1.0'
