"""What a crash test and its processes tell each other, as JSON."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from eventbus.testing.crashtest.ledger import Standing, Violation
from eventbus.testing.crashtest.life import Life, Orders
from eventbus.testing.crashtest.points import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """To a process: where it lives, and what it is to do."""

    app: str  # module:attribute
    scenario: str  # FILE:SCENARIO
    transport: str  # URL
    prefix: str  # of topics and groups
    storage: str  # URL of a database of its own
    fresh: bool  # the database is empty
    answer: str  # the file that it writes
    orders: Orders

    def written(self) -> bytes:
        """For `read`."""
        return orjson.dumps({**asdict(self), "orders": _orders(self.orders)})

    @classmethod
    def read(cls, written: bytes) -> "Letter":
        """What `written` wrote."""
        given = orjson.loads(written)
        told = given.pop("orders")
        orders = Orders(
            kill=_point(told["kill"]),
            drives=told["drives"],
            cut=told["cut"],
            dry=_standing_of(told["dry"]),
        )
        return cls(**given, orders=orders)


def life_to_json(life: Life) -> bytes:
    """For `life_of`; what a row holds is text if JSON has no such type."""
    told = {
        "killed": life.killed,
        "phase": life.phase,
        "points": [asdict(point) for point in life.points],
        "calls": list(life.calls),
        "violations": [
            {"invariant": each.invariant, "what": each.what, "rows": [dict(r) for r in each.rows]}
            for each in life.violations
        ],
        "standing": _standing(life.standing),
    }
    return orjson.dumps(told, default=str, option=orjson.OPT_NON_STR_KEYS)


def life_of(told: Mapping[str, Any]) -> Life:
    """What `life_to_json` wrote."""
    return Life(
        killed=told["killed"],
        phase=told["phase"],
        points=[point for each in told["points"] if (point := _point(each)) is not None],
        calls=told["calls"],
        violations=[Violation(**each) for each in told["violations"]],
        standing=_standing_of(told["standing"]),
    )


def _orders(orders: Orders) -> Mapping[str, Any]:
    kill = None if orders.kill is None else asdict(orders.kill)
    return {
        "kill": kill,
        "drives": orders.drives,
        "cut": orders.cut,
        "dry": _standing(orders.dry),
    }


def _point(told: Mapping[str, Any] | None) -> Point | None:
    return None if told is None else Point(**{**told, "names": tuple(told["names"])})


def _standing(standing: Standing | None) -> Mapping[str, Any] | None:
    if standing is None:
        return None
    return {
        "given_up": list(standing.given_up.elements()),
        "sagas": list(standing.sagas.elements()),
        "effective": sorted(standing.effective),
    }


def _standing_of(told: Mapping[str, Any] | None) -> Standing | None:
    if told is None:
        return None
    return Standing(
        given_up=Counter(tuple(each) for each in told["given_up"]),
        sagas=Counter(tuple(each) for each in told["sagas"]),
        effective={(group, wire_type) for group, wire_type in told["effective"]},
    )
