"""What answers: one file for each kind of service, over one HTTP transport."""

from attune.providers.catalogue import KINDS, KNOWN_PROVIDERS, KnownProvider, build_provider
from attune.providers.secret import Secret, resolve_secret

__all__ = ["KINDS", "KNOWN_PROVIDERS", "KnownProvider", "Secret", "build_provider", "resolve_secret"]
