"""Which node serves a request, and why: pure decisions over what is known."""
