"""The wheel holds what is needed, and works with the core's dependencies and nothing else."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.docs.child import printed_by
from tests.docs.test_readme import APP

ROOT = Path(__file__).parents[2]
SOURCES = ("eventbus", "pyproject.toml", "README.md", "LICENSE")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, by the build backend of this environment: no network."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    run(sys.executable, "-m", "pip", *build, cwd=folder)
    [built] = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and what it requires, copied from this environment."""
    folder = tmp_path_factory.mktemp("core")
    venv.create(folder / "env", with_pip=False, symlinks=os.name != "nt")
    python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    site = "import sysconfig; print(sysconfig.get_path('purelib'))"
    target = Path(run(python, "-c", site, cwd=folder).strip())
    for found in required("eventbus"):
        copy(found, target)
    run(*pip, "check", cwd=folder)
    return python


def required(name: str) -> Iterator[Distribution]:
    """What a distribution needs without any extra, and what that needs."""
    seen: set[str] = set()
    front = [name]
    while front:
        for line in distribution(front.pop()).requires or ():
            wanted = Requirement(line)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            if wanted.name not in seen:
                seen.add(wanted.name)
                front.append(wanted.name)
                yield distribution(wanted.name)


def copy(found: Distribution, target: Path) -> None:
    for file in found.files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), target / file)


def test_the_wheel_holds_what_is_no_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for pattern in ("py.typed", "**/migrations/*.sql", "cli/explain/*.md", "cli/shipped/*"):
        here = {file.relative_to(ROOT).as_posix() for file in (ROOT / "eventbus").glob(pattern)}
        assert here, pattern
        assert here <= names, pattern
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"eventbus"}


def test_the_core_alone_imports_and_helps(core: Path, tmp_path: Path) -> None:
    imports = "import eventbus; [getattr(eventbus, name) for name in eventbus.__all__]; print('ok')"
    assert run(core, "-W", "error", "-c", imports, cwd=tmp_path) == "ok\n"
    script = core.with_name("eventbus")
    assert "dead-letter" in run(script, "--help", cwd=tmp_path)
    assert run(script, "explain", "EB4104", cwd=tmp_path).startswith("# EB4104")
    for extra in ("rich", "opentelemetry", "prometheus_client", "pytest"):
        absent = f"import importlib.util as u; assert u.find_spec({extra!r}) is None"
        run(core, "-c", absent, cwd=tmp_path)


def test_the_core_alone_does_what_the_first_screen_shows(core: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.text, encoding="utf-8")
    published = 'shop.order-placed {"order_id": "A-1", "cents": 4200}'
    command = f"eventbus dev app:bus --publish '{published}' --storage sqlite:///shop.db"
    lines = printed_by(command, tmp_path, count=3, python=core, path=None)
    assert lines[1] == "bill A-1: 4200"


def test_a_missing_extra_is_named(core: Path, tmp_path: Path) -> None:
    needs = "from eventbus.observability import PrometheusInstrumentation as P\ntry:\n    P()\n"
    caught = "except Exception as error:\n    print(error.code, 'prometheus' in error.next)"
    assert run(core, "-c", needs + caught, cwd=tmp_path) == "EB1005 True\n"


def test_the_first_project_is_green(core: Path, tmp_path: Path) -> None:
    run(core.with_name("eventbus"), "init", "demo", cwd=tmp_path)
    done = run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / "demo"
    )
    assert "1 passed" in done
