"""From the bytes of an answer to what it used. Pure; bytes pass through as they are."""
