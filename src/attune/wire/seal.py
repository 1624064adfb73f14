"""Reasoning in the hands of a client of another protocol: whose it is when it comes back."""

from __future__ import annotations

__all__ = ["seal", "unseal"]

_SEAL = "attune:"


def seal(provider: str, signature: str) -> str:
    """The signature of reasoning as a client of another protocol keeps it, with the provider that made it.

    A provider refuses what another one signed, so it must be told apart when it comes back.
    """
    return f"{_SEAL}{provider}:{signature}"


def unseal(signature: str) -> tuple[str, str]:
    """The signature and the provider in what ``seal`` made; without a provider if it did not."""
    if not signature.startswith(_SEAL):
        return signature, ""
    provider, _, inner = signature.removeprefix(_SEAL).partition(":")
    return inner, provider
