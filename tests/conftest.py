"""What holds for every test.

Examples are not timed: how long one takes is the machine's business, not the code's.
"""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.faults.matrix_report import MatrixReport

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """For `make faults`."""
    told = "write what became of each row of the fault matrix; a row that nothing ran for fails"
    parser.addoption("--fault-matrix", metavar="FILE", type=Path, help=told)


def pytest_configure(config: pytest.Config) -> None:
    """Workers of xdist tell the process that started them."""
    file: Path | None = config.getoption("--fault-matrix")
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(MatrixReport(file), "fault-matrix")


@pytest.fixture(autouse=True)
def often() -> Iterator[tuple[int, int, int]]:
    """How often the collector looks at objects; a command that runs in this process changes it."""
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)
    gc.unfreeze()
