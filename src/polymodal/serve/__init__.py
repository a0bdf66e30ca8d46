"""The HTTP server: OpenAI's interface over the engine, safe for strangers by default."""
