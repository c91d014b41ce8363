"""What two texts, a prompt and an answer, show of how hard the one is and how right the other: measured, never looked up."""
