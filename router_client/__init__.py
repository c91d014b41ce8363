"""The buyer: finds nodes on Nostr, judges the task, pays with ecash and verifies what it got.

`from router_client.client import RouterClient` is the front door. This package imports nothing heavy by itself.
"""
