"""The node's onion service: a tor process of our own, or one that runs already."""
