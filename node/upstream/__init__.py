"""The servers that run the models. One file per kind of upstream, in `kinds`."""
