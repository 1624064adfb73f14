"""Pure protocol code: what bytes mean, with no input or output of its own."""
