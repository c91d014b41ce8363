"""A request from its plan to its answer: the node that serves, or the next, or two, or a better model."""
