"""The formulas of deep-learning lecture notes as first-class PyTorch operations."""
