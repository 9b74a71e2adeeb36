"""Answer over HTTP: the endpoint that OpenAI's clients speak, and the page in the same application."""
