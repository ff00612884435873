"""Drawings and previews: text made from the definition and from one saga."""

from typing import Any
from xml.etree import ElementTree

import pytest

from eventbus.saga.definition import definition_of
from eventbus.saga.diagram import diagram, graph_of
from eventbus.saga.preview import preview
from tests.unit.saga.play import Play
from tests.unit.saga.shop import Independent, Mixed, OrderProcess, Parallel, PlaceOrder

MERMAID = """\
flowchart LR
  n_start(("OrderPlaced"))
  n_reserve["reserve<br/>ReserveStock"]
  n_charge["charge<br/>ChargeCard"]
  n_ship{{"ship<br/>CreateShipment · pivot"}}
  n_completed(("completed"))
  n_compensated(("compensated"))
  n_undo_reserve["release<br/>ReleaseStock"]
  n_undo_charge["refund<br/>RefundCard"]
  n_start --> n_reserve
  n_reserve --> n_charge
  n_charge --> n_ship
  n_ship --> n_completed
  n_reserve -. "OutOfStock" .-> n_compensated
  n_undo_reserve -.-> n_compensated
  n_reserve -. "unknown" .-> n_undo_reserve
  n_charge -. "CardDeclined" .-> n_undo_reserve
  n_undo_charge -.-> n_undo_reserve
  n_charge -. "unknown" .-> n_undo_charge
  n_ship -. "cancelled" .-> n_undo_charge
"""


def test_a_definition_is_a_flowchart_with_its_way_back() -> None:
    assert diagram(definition_of(PlaceOrder)) == MERMAID


def test_one_saga_is_laid_over_it() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.fire("step:1")
    text = diagram(play.definition, saga=play.saga, steps=play.steps)
    assert text.startswith(MERMAID)
    overlay = text.removeprefix(MERMAID).splitlines()
    assert "  classDef unknown fill:#ffcc80" in overlay
    assert "  class n_reserve succeeded" in overlay
    assert "  class n_charge unknown" in overlay
    assert "  class n_undo_charge dispatched" in overlay
    assert not any("n_ship" in line for line in overlay)
    play.undo("charge")
    play.undo("reserve")
    ended = diagram(play.definition, saga=play.saga, steps=play.steps)
    assert "  class n_compensated succeeded" in ended.splitlines()


def test_dot_names_shapes_styles_and_colours() -> None:
    play = Play(PlaceOrder)
    text = diagram(play.definition, "dot", saga=play.saga, steps=play.steps)
    assert text.startswith('digraph "place-order v1" {\n  rankdir=LR\n')
    assert r'n_ship [label="ship\nCreateShipment · pivot", shape=hexagon]' in text
    assert (
        r'n_reserve [label="reserve\nReserveStock", shape=box, style=filled, fillcolor="#fff59d"]'
        in text
    )
    assert 'n_charge -> n_undo_reserve [label="CardDeclined", style=dashed]' in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("cls", [PlaceOrder, Parallel, Mixed, Independent])
def test_a_picture_is_well_formed_and_has_every_place(cls: type[Any]) -> None:
    play = Play(cls)
    text = diagram(play.definition, "svg", saga=play.saga, steps=play.steps)
    root = ElementTree.fromstring(text)
    words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    for node in graph_of(play.definition).nodes:
        assert set(node.lines) <= words
    shapes = sum(1 for e in root.iter() if e.tag.endswith(("}rect", "}polygon")))
    assert shapes == len(graph_of(play.definition).nodes)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_no_two_places_lie_on_each_other() -> None:
    for cls in (PlaceOrder, Parallel, Mixed, Independent):
        nodes = graph_of(definition_of(cls)).nodes
        assert len({(node.column, node.row) for node in nodes}) == len(nodes), cls


def test_parallel_steps_stand_below_each_other_and_are_joined() -> None:
    graph = graph_of(definition_of(Parallel))
    places = {node.id: (node.column, node.row) for node in graph.nodes}
    assert places["reserve"] == (1, 0)
    assert places["charge"] == (1, 1)
    into = {edge.source for edge in graph.edges if edge.target == "ship"}
    assert into == {"reserve", "charge"}


def test_local_steps_calls_and_waits_say_what_they_are() -> None:
    text = diagram(definition_of(Mixed))
    for part in (
        '["book<br/>local"]',
        '["fetch<br/>StockReserved"]',
        '["paid<br/>PaymentSeen"]',
        '["rested<br/>wait"]',
        '["unbook<br/>local"]',
        '["unfetch<br/>call"]',
        'n_book -. "Reject" .-> n_compensated',
        'n_fetch -. "NoStockError" .-> n_undo_book',
        'n_paid -. "not in time" .-> n_undo_fetch',
    ):
        assert part in text


STATES = """\
flowchart LR
  n_state_initial(("initial"))
  n_state_reserving("reserving")
  n_state_charging("charging")
  n_state_shipping("shipping")
  n_state_initial -- "shop.order-placed" --> n_state_reserving
  n_state_reserving -- "stock.stock-reserved" --> n_state_charging
  n_state_charging -- "payments.card-charged" --> n_state_shipping
  n_state_shipping -- "shipping.shipment-created · shop.order-cancelled" --> n_state_shipping
  n_state_reserving -- "shop.order-cancelled" --> n_state_reserving
  n_state_charging -- "shop.order-cancelled" --> n_state_charging
  classDef here fill:#fff59d
  class n_state_charging here
"""


def test_a_process_is_drawn_by_its_states() -> None:
    play = Play(OrderProcess)
    play.reply("reserve")
    text = diagram(play.definition, saga=play.saga, steps=play.steps)
    assert text == STATES
    picture = ElementTree.fromstring(diagram(play.definition, "svg", saga=play.saga))
    paths = [each.get("d") or "" for each in picture.iter() if each.tag.endswith("}path")]
    assert sum("C" in path for path in paths) == 3  # loops of states that stay
    nodes = graph_of(play.definition).nodes
    assert [(node.column, node.row) for node in nodes] == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_a_preview_says_what_would_be_sent() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    assert preview(play.definition, play.saga, play.steps) == (
        "would send: 1 RefundCard (charge: unknown)  2 ReleaseStock (reserve: R-1)"
        "  ·  ship not started  ·  pivot not passed"
    )


def test_a_preview_is_what_compensate_does() -> None:
    play = Play(Parallel)
    play.reply("charge")
    text = preview(play.definition, play.saga, play.steps)
    play.verb("compensate")
    assert play.saga.plan is not None
    told = [part.split("(")[1].split(":")[0] for part in text.split("  ·  ")[0].split("  ")]
    assert told == [line.step for line in play.saga.plan.undos]


def test_a_preview_says_why_it_would_be_refused_and_what_is_left() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.reply("charge")
    assert preview(play.definition, play.saga, play.steps) == (
        "would be refused: the pivot is in flight"
    )
    play.reply("ship", "rejected")
    play.undo("charge")
    assert preview(play.definition, play.saga, play.steps) == (
        "would be refused: it is compensated or on its way to be"
        "  ·  left to undo: ReleaseStock (reserve: R-1)"
    )


def test_a_preview_of_a_completed_saga_without_a_pivot() -> None:
    play = Play(Independent)
    for each in ("reserve", "charge", "ship"):
        play.reply(each)
    assert preview(play.definition, play.saga, play.steps).endswith("pivot not passed")
    begun = Play(Mixed)
    begun.local("book")
    assert "unfetch (fetch: unknown)  2 unbook (book: done)" in preview(
        begun.definition, begun.saga, begun.steps
    )
    nothing = Play(PlaceOrder)
    nothing.steps = ()
    assert preview(nothing.definition, nothing.saga, ()).startswith("would send nothing")
