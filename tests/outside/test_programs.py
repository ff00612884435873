"""What is missing fails a test: skipped, it would have checked nothing."""

import pytest

from tests.outside.programs import foreign, tool


def test_a_missing_tool_fails_and_says_what_to_install() -> None:
    with pytest.raises(pytest.fail.Exception, match="apt-get install no-such-package"):
        tool("no-such-tool", "no-such-package")


async def test_a_missing_interpreter_fails_and_says_what_makes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVENTBUS_OUTSIDE_PYTHON", "/nowhere/python")
    with pytest.raises(pytest.fail.Exception, match="make outside"):
        await foreign("cloud_events", "understand", "kafka")
