"""Comparisons on MNIST: what mnist.py runs. One concept a file; command_line.py puts them together."""
