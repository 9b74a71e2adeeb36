"""Attention: the probe that reads it at one layer, and the kernels that compute it."""
