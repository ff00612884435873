"""The launcher with a real PostgreSQL, started natively: shared, isolated, and ended by pid."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from eventbus.testing.services import private_postgres, running
from eventbus.testing.services.find import acquire, down, release, status, up
from eventbus.testing.services.postgres import (
    _ask,
    create_database,
    drop_database,
    programs_or_reason,
)
from eventbus.testing.services.processes import Process, born, this_process
from eventbus.testing.services.service import ProbeError, Running
from eventbus.testing.services.state import DIRECTORY

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """These tests are about native processes: a URL or a container is no help."""
    ci = os.environ.get("CI", "").lower() in ("true", "1")
    programs = programs_or_reason(install=ci, say=lambda text: None)
    if isinstance(programs, str) and ci:
        pytest.fail(programs)
    if isinstance(programs, str):
        pytest.skip(f"capability native-postgres: {programs}")


@pytest.fixture(autouse=True)
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state of this test's own, without URL and engine; what it leaves running is ended."""
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "services"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'no.sock'}")
    for name in ("CI", "EVENTBUS_TEST_POSTGRES_URL"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path / "services"
    down()


def launcher(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "eventbus.testing.services", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return output


def gone(service: Running) -> bool:
    assert service.directory is not None
    return not (
        any(process.alive for process in service.processes) or Path(service.directory).exists()
    )


async def ask(url: str, query: str) -> object:
    async with asyncio.timeout(20):
        connection = await asyncpg.connect(url, timeout=10, command_timeout=10)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close(timeout=30)


class TestAtTheShell:
    def test_shells_that_ask_at_once_get_one_server_and_down_ends_it(self, services: Path) -> None:
        urls = {said(shell) for shell in [launcher("up", "postgres") for _ in range(3)]}
        assert len(urls) == 1
        assert urls.pop().startswith("export EVENTBUS_TEST_POSTGRES_URL='postgresql://")
        document = json.loads(said(launcher("status", "-o", "json")))
        service = status()["postgres"].running
        assert document["services"]["postgres"]["running"]["url"] == service.url
        assert service.lane == "native"
        said(launcher("down", "postgres"))
        assert gone(service)
        assert status() == {}

    def test_a_server_that_was_killed_is_replaced(self) -> None:
        first = up("postgres")
        os.kill(first.processes[0].pid, signal.SIGKILL)
        second = up("postgres")
        assert first.processes != second.processes
        assert gone(first)
        assert set(status()) == {"postgres"}

    def test_down_leaves_a_process_alone_that_has_the_number_by_chance(self) -> None:
        service = up("postgres")
        assert service.directory is not None
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
            file = Path(service.directory, "data", "postmaster.pid")
            real = file.read_text()
            file.write_text(real.replace(str(service.processes[0].pid), str(stranger.pid), 1))
            down()
            assert stranger.poll() is None
            stranger.communicate(b"\n")
        assert stranger.returncode == 0
        os.kill(service.processes[0].pid, signal.SIGQUIT)  # its file was ours for this test

    async def test_it_is_on_loopback_durable_and_without_prepared_transactions(self) -> None:
        url = up("postgres").url
        expected = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on",
            "max_connections": "200",
            "max_prepared_transactions": "0",
            "server_encoding": "UTF8",
        }
        for name, value in expected.items():
            assert await ask(url, f"SHOW {name}") == value


class TestUsers:
    def test_the_last_user_ends_what_nobody_keeps(self) -> None:
        with running("postgres") as outer:
            with running("postgres") as inner:
                assert inner.url == outer.url
            assert set(status()) == {"postgres"}
        assert gone(outer)

    def test_what_up_started_stays_when_its_users_leave(self) -> None:
        kept = up("postgres")
        with running("postgres") as used:
            assert used.url == kept.url
        assert set(status()) == {"postgres"}

    def test_one_word_of_the_run_ends_all_uses_of_its_workers(self) -> None:
        run = this_process()
        first, second = acquire("postgres", run), acquire("postgres", run)
        assert first.url == second.url
        release(run)
        assert gone(first)

    def test_what_a_dead_run_left_is_ended_by_the_next(self) -> None:
        left = acquire("postgres", Process(this_process().pid, "long ago"))
        with running("postgres") as mine:
            assert mine.processes != left.processes
            assert gone(left)

    async def test_a_database_is_empty_of_its_own_and_dropped_though_it_is_in_use(self) -> None:
        server = up("postgres").url
        one, other = create_database(server), create_database(server)
        assert one != other
        async with asyncio.timeout(20):
            connection = await asyncpg.connect(one, timeout=10, command_timeout=10)
            await connection.execute("CREATE TABLE t (id int)")
        assert await ask(other, "SELECT to_regclass('t') IS NULL") is True
        drop_database(one)
        drop_database(other)
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await connection.fetchval("SELECT 1")
        connection.terminate()
        assert await ask(server, "SELECT count(*) FROM pg_database WHERE datname ~ '^t_'") == 0

    async def test_what_takes_too_long_goes_on_at_the_server(self) -> None:
        server, role = up("postgres").url, f"r_{uuid4().hex}"
        statement = f"DO $$ BEGIN PERFORM pg_sleep(2); CREATE ROLE {role}; END $$"
        with pytest.raises(ProbeError, match="no answer"):
            await _ask(server, statement, 1.0)
        there = f"SELECT count(*) FROM pg_sleep(0.1), pg_roles WHERE rolname = '{role}'"
        async with asyncio.timeout(60):
            while not await ask(server, there):
                pass
        await ask(server, f"DROP ROLE {role}")


RUN = """
import asyncio, asyncpg, pytest
urls = set()

@pytest.mark.parametrize("n", [1, 2])
def test_each_test_has_a_database(postgres_url, n):
    urls.add(postgres_url)
    assert len(urls) == n
    async def tables():
        connection = await asyncpg.connect(postgres_url, timeout=10, command_timeout=10)
        await connection.execute("CREATE TABLE mine (id int)")
        await connection.close(timeout=30)
    asyncio.run(tables())

@pytest.mark.asyncio
async def test_it_works_while_a_loop_runs(request):
    assert request.getfixturevalue("postgres_url").startswith("postgresql://")
"""


class TestInPytest:
    def run(self, pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(RUN)
        plugin = ("-p", "eventbus.testing.services.fixtures", "-p", "no:randomly")
        return pytester.runpytest_subprocess(*plugin, *arguments, timeout=100)

    def test_a_run_ends_what_it_started_and_says_what_it_used(
        self, pytester: pytest.Pytester, services: Path
    ) -> None:
        result = self.run(pytester)
        result.assert_outcomes(passed=3)
        result.stdout.fnmatch_lines(["eventbus services: postgres * (native) *, started in * s"])
        assert status() == {}
        assert not list(services.glob("*postgres-*"))

    def test_a_run_uses_and_leaves_what_up_started(self, pytester: pytest.Pytester) -> None:
        kept = up("postgres")
        result = self.run(pytester)
        result.assert_outcomes(passed=3)
        result.stdout.fnmatch_lines([f"eventbus services: postgres * {kept.url}, runs already"])
        assert status()["postgres"].running == kept

    def test_a_required_service_is_in_the_header(self, pytester: pytest.Pytester) -> None:
        result = self.run(pytester, "--eventbus-require=postgres", "-k", "nothing_of_it")
        result.stdout.fnmatch_lines(["eventbus services: postgres * (native) postgresql://*"])
        assert status() == {}

    def test_a_url_in_the_environment_is_used(
        self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        url = up("postgres").url
        with monkeypatch.context() as patch:
            patch.setenv("EVENTBUS_TEST_POSTGRES_URL", url)
            patch.setenv(DIRECTORY, str(tmp_path / "another"))
            result = self.run(pytester)
        result.assert_outcomes(passed=3)
        result.stdout.fnmatch_lines([f"eventbus services: postgres * (environment) {url}"])
        assert not (tmp_path / "another").exists()


class TestAPrivateServer:
    async def test_what_was_committed_before_a_kill_is_there_after_the_start(self) -> None:
        async with private_postgres() as server:
            await ask(server.url, "CREATE TABLE t (id int)")
            victim = await asyncpg.connect(server.url, timeout=10, command_timeout=10)
            await victim.execute("INSERT INTO t VALUES (1)")
            transaction = victim.transaction()
            await transaction.start()
            await victim.execute("INSERT INTO t VALUES (2)")
            pid, url = server.pid, server.url
            await server.kill()
            assert server.pid == 0
            with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
                await victim.execute("SELECT 1")
            victim.terminate()
            with pytest.raises(ConnectionRefusedError):
                await ask(url, "SELECT 1")
            await server.start()
            assert server.url == url
            assert server.pid not in (0, pid)
            assert await ask(url, "SELECT count(*) FROM t") == 1

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    async def test_it_stops_in_both_modes_and_keeps_its_data(self, mode: str) -> None:
        async with private_postgres() as server:
            await ask(server.url, "CREATE TABLE t AS SELECT 1 AS id")
            await server.stop("immediate" if mode == "immediate" else "fast")
            assert server.pid == 0
            await server.stop()
            await server.start()
            assert await ask(server.url, "SELECT count(*) FROM t") == 1
            log = server.directory.joinpath("log").read_text()
            assert f"received {mode} shutdown request" in log

    async def test_frozen_it_answers_nothing_and_thawed_all_of_it(self) -> None:
        async with private_postgres() as server:
            connection = await asyncpg.connect(server.url, timeout=10, command_timeout=20)
            await server.freeze()
            question = asyncio.create_task(connection.fetchval("SELECT 7"), name="test:question")
            answered, _ = await asyncio.wait({question}, timeout=0.3)
            assert not answered
            await server.thaw()
            async with asyncio.timeout(30):
                assert await question == 7
            await connection.close(timeout=30)

    async def test_a_frozen_one_can_be_removed(self) -> None:
        async with private_postgres() as server:
            await server.freeze()
        assert not server.directory.exists()

    async def test_settings_are_those_of_the_caller_and_may_change_for_the_next_start(self) -> None:
        async with private_postgres({"max_prepared_transactions": "3"}) as server:
            assert await ask(server.url, "SHOW max_prepared_transactions") == "3"
            assert await ask(server.url, "SHOW fsync") == "on"
            if sys.platform == "linux":  # a thousand files one by one take a minute on a slow disk
                assert await ask(server.url, "SHOW recovery_init_sync_method") == "syncfs"
            server.settings["log_line_prefix"] = "it's quoted "
            await server.restart()
            assert await ask(server.url, "SHOW log_line_prefix") == "it's quoted "

    def test_that_of_a_killed_process_is_ended_by_the_next_who_looks(self) -> None:
        program = (
            "import asyncio, sys\n"
            "from eventbus.testing.services import private_postgres\n"
            "async def main():\n"
            "    async with private_postgres() as server:\n"
            "        print(server.pid, server.directory, flush=True)\n"
            "        await asyncio.Event().wait()\n"
            "asyncio.run(main())\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        ) as owner:
            assert owner.stdout is not None
            pid, directory = owner.stdout.readline().split()
            owner.kill()
        assert born(int(pid)) is not None
        with running("postgres"):
            assert born(int(pid)) is None
            assert not Path(directory).exists()
