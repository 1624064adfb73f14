"""``[gateway]``: where it listens, clients' names for models, and rules."""

from __future__ import annotations

import pytest

from attune.config.settings import GatewayConfig


def test_nothing_needs_to_be_said(configured) -> None:
    assert configured().gateway == GatewayConfig("127.0.0.1", 4141, 32, {}, ())


def test_everything_can_be_said(configured) -> None:
    gateway = configured(
        """
[gateway]
host = "0.0.0.0"
port = 8080
max_body_mib = 4
[gateway.aliases]
"claude-sonnet-5-5" = "attune/cheap"
[[gateway.rules]]
path = "/v1/messages"
user_agent = "claude-cli"
model = "auto"
workflow = "coding"
stage = "edit"
task = "Fix Bug"
"""
    ).gateway
    assert (gateway.host, gateway.port, gateway.max_body_mib) == ("0.0.0.0", 8080, 4)
    assert gateway.aliases == {"claude-sonnet-5-5": "attune/cheap"}
    assert gateway.rules[0].sets == {"workflow": "coding", "stage": "edit", "task_type": "Fix Bug"}


def test_a_rule_fits_what_it_names_and_everything_else(configured) -> None:
    rule = configured(
        '[[gateway.rules]]\nuser_agent = "CLI"\nmodel = "auto"\nworkflow = "w"\n'
    ).gateway.rules[0]
    assert rule.fits("/v1/messages", "claude-cli/2.1", "auto")
    assert rule.fits("/v1/chat/completions", "my-CLI", "auto")
    assert not rule.fits("/v1/messages", "curl/8", "auto")
    assert not rule.fits("/v1/messages", "cli", "alpha")
    rule = configured('[[gateway.rules]]\npath = "/v1/messages"\n').gateway.rules[0]
    assert rule.fits("/v1/messages", "", "")
    assert not rule.fits("/v1/responses", "", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gateway]\nprot = 1", "did you mean 'port'"),
        ("[gateway]\nport = 0", "from 1 to 65535"),
        ("[gateway]\nport = 70000", "from 1 to 65535"),
        ("[gateway]\nmax_body_mib = 0", "[gateway] max_body_mib"),
        ("[gateway]\nhost = 5", "[gateway] host"),
        ("[gateway.aliases]\nx = 5", "[gateway.aliases] x"),
        ("[gateway]\nrules = 5", "rules"),
        ("[[gateway.rules]]\ntask = 'fix-bugg'", "fix_bug"),
        ("[[gateway.rules]]\npath = '/v1/message'", "did you mean '/v1/messages'"),
        ("[[gateway.rules]]\nworkflw = 'w'", "did you mean 'workflow'"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_it(mistake, text: str, says: str) -> None:
    assert says in mistake(text)
