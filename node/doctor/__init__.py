"""What `satroute doctor` looks at: each part of a configuration, from its own end."""
