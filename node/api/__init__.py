"""The only HTTP-facing code: routes, credentials, and errors in OpenAI's shape."""
