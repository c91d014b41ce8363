"""A whole paid AI network on this machine, of real parts: mint, relay, model and nodes. Its money is play money."""
