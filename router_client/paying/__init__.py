"""A token with a request, its change with the answer, journaled: money that a crash leaves out is fetched."""
