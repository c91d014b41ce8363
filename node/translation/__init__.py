"""From the language that a caller speaks to the one that an upstream speaks, and back. Pure: no IO, no clock of its own."""
