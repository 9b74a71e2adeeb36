"""Verbs that run a Trainer, and how a run ends."""
