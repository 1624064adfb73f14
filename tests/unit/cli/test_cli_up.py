"""What ``attune up`` says before it serves."""

from __future__ import annotations


def test_the_line_for_claude_code_says_that_its_plan_does_not_pay(attune, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary-not-a-secret")
    attune.configure('[providers.claude]\nkind = "claude_subscription"')
    code, out = attune("up", "--check")
    assert code == 0
    assert "  providers: anthropic\n" in out
    offered, billed = out.partition("  Claude Code: ")[2].splitlines()[:2]
    assert offered.endswith("ANTHROPIC_AUTH_TOKEN=... claude")
    assert billed.strip() == "it is then billed to the keys of these providers, not to your Claude plan"
    assert "leaves claude out" in attune.err
