"""Files that outlive a run: features, scores, settings, JSON lines, videos."""
