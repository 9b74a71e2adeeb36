"""What happens in a step, what is logged, what is written."""
