"""Metrics of validation, as torchmetrics."""
