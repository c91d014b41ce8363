"""The local endpoint: any tool that speaks OpenAI's API buys through the router. `app.Proxy` is its door."""
