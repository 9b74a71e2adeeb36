"""Training of a selector: the teacher, losses, initial weights, frozen parts and adapters."""
