"""The gateway: one address that speaks the protocols of OpenAI and Anthropic, for any of their clients."""
