"""Programs that measure; run each with `python -m bench.<name>`."""
