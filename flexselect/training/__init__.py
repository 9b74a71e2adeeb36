"""What a selector learns from: the teacher, the losses, its first weights, what of it is trained."""
