"""Judging answers, and the uncertainty of results."""
