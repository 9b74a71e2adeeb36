"""Which visual tokens matter to a question, and which of them are kept."""
