"""The seller: a paid OpenAI-compatible proxy with its ledger, upstreams and announcements."""
