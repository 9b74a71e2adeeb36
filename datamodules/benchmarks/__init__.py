"""Benchmarks of long-video question answering, one file per benchmark."""
