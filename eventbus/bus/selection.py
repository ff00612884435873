"""Which services run: all of them, or the roles and names that a worker was given."""

from collections.abc import Collection, Mapping, Sequence

from eventbus.errors import ConfigurationError
from eventbus.service import Service

FORGETTING = frozenset({"retention", "archive"})  # beside whatever runs: one of all, by lease


def is_of_a_group(name: str) -> bool:
    """Whether a service handles messages; what is not ends after them."""
    return name.partition(":")[0] in {
        "consumer",
        "redelivery",
        "projection",
        "timers",
        "calls",
    }


def selected(services: Mapping[str, Service], only: Collection[str] | None) -> dict[str, Service]:
    """The services of `bus.run(only=…)`: by role or by name; a consumer brings its redelivery.

    What forgets what nobody needs any more comes along, so that no split of an app leaves it out.

    Raises:
        ConfigurationError: EB1006, one of them names nothing.
    """
    if only is None:
        return dict(services)
    chosen: dict[str, Service] = {}
    for wish in _with_sagas(services, only):
        also = wish.replace("consumer", "redelivery", 1) if wish.startswith("consumer") else wish
        found = {
            name: service
            for name, service in services.items()
            if name in {wish, also} or name.partition(":")[0] in {wish, also}
        }
        if not found:
            raise ConfigurationError(
                "EB1006",
                f"{wish!r} names nothing that runs",
                where="bus.run(only=…)",
                why=f"there are: {', '.join(services)}",
                next="name one of them, or a role like 'relay'",
            )
        chosen |= found
    return chosen | {
        name: service for name, service in services.items() if name.partition(":")[0] in FORGETTING
    }


def _with_sagas(services: Mapping[str, Service], only: Collection[str]) -> Sequence[str]:
    """A saga is its consumer, its timers and its calls: `saga` all of them, `saga:place-order`."""
    sagas = [name.partition(":")[2] for name in services if name.startswith("timers:")]
    wishes: list[str] = []
    for wish in only:
        role, _, name = wish.partition(":")
        found = [each for each in sagas if name in {"", each}]
        if role != "saga" or not found:
            wishes.append(wish)
        for each in found if role == "saga" else ():
            wishes += [f"consumer:{each}", f"timers:{each}", f"calls:{each}"]
    return wishes
