"""Real services for tests: found or started, shared, and stopped at the end."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus.testing.services.find import running
    from eventbus.testing.services.postgres_server import PostgresServer, private_postgres
    from eventbus.testing.services.service import Running, ServiceMissingError

_HOMES = {"running": "find", "Running": "service", "ServiceMissingError": "service"}
__all__ = ["PostgresServer", "Running", "ServiceMissingError", "private_postgres", "running"]

if not TYPE_CHECKING:  # the plugin in this package is imported in every pytest run: lazily

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = _HOMES.get(name, "postgres_server")
        return getattr(import_module(f"{__name__}.{home}"), name)
