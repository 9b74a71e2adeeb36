"""Files that outlive a run: features, scores, settings, lines, pictures that move."""
