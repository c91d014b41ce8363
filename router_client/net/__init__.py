"""HTTP to strangers, by the way that was chosen, each exchange bounded in time and size."""
