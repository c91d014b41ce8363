"""What was spent, what may still be, and what a dollar is in msat."""
