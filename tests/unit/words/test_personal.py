"""Personal fields: sealed with a key of their subject, read again, or Forgotten; never an error."""

import json
import os
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from eventbus import Event, Forgotten, Personal, upcast
from eventbus.codec import Encoder, Registry, is_personal, subjects_of
from eventbus.errors import CodecError, DecodeError, PersonalDataError, WiringError
from eventbus.message import NO_HEADERS, Message
from eventbus.personal import FORGOTTEN, Opening, Sealed, without
from eventbus.sealing import (
    Key,
    Keys,
    Subject,
    hidden,
    key_ids,
    opened_as_a_whole,
    sealed_as_a_whole,
)


class Address(BaseModel):
    owner: str
    street: Annotated[str, Personal(subject="owner")]


class SignedUp(Event, type="shop.signed-up", key="customer_id"):
    customer_id: str
    email: Annotated[str, Personal(subject="customer_id")]
    born: Annotated[date | Forgotten | None, Personal(subject="customer_id")] = None
    nicknames: Annotated[list[str] | Forgotten | None, Personal(subject="customer_id")] = None
    addresses: tuple[Address, ...] = ()
    cents: int = 0


class Renamed(Event, type="shop.renamed", version=2):
    customer_id: str
    first: Annotated[str, Personal(subject="customer_id")]
    last: Annotated[str, Personal(subject="customer_id")]

    @upcast(1)
    @staticmethod
    def split(old: dict[str, Any]) -> dict[str, Any]:
        first, _, last = old.pop("name").partition(" ")
        return {**old, "first": first, "last": last}


class Named(Event, type="shop.renamed"):
    """As it was in version 1."""

    customer_id: str
    name: Annotated[str, Personal(subject="customer_id")]


ENCODER = Encoder("/shop", max_body=1 << 20)
REGISTRY = Registry([SignedUp, Renamed])
EVENT = SignedUp(
    customer_id="c-1",
    email="ada@example.com",
    born=date(1815, 12, 10),
    nicknames=["Enchantress"],
    addresses=(Address(owner="c-2", street="12 St James's Square"),),
    cents=7,
)
PLAIN = ("ada@example.com", "1815", "Enchantress", "St James")


def keys_of(event: Event, tenant: str = "") -> dict[Subject, Key]:
    return {each: Key(os.urandom(16), each, os.urandom(32)) for each in subjects_of(event, tenant)}


def encoded(event: Event, keys: dict[Subject, Key], tenant: str = "") -> Message:
    return ENCODER.typed(event, NO_HEADERS, None, tenant, keys)


def by_id(keys: dict[Subject, Key], change: Callable[[Key], Key] = lambda key: key) -> Keys:
    return {key.id: change(key) for key in keys.values()}


def destroyed(key: Key) -> Key:
    return Key(key.id, key.subject, None)


def test_what_is_sealed_reads_as_it_was_and_stands_nowhere() -> None:
    keys = keys_of(EVENT)
    message = encoded(EVENT, keys)
    assert [text for text in PLAIN if text.encode() in message.payload] == []
    assert key_ids([message.payload]) == {key.id for key in keys.values()}
    assert json.loads(message.payload)["cents"] == 7
    assert REGISTRY.decode(message, Opening(by_id(keys))) == EVENT


def test_each_subject_has_its_key_also_inside_of_what_an_event_is_made_of() -> None:
    assert set(subjects_of(EVENT, "t1")) == {Subject("t1", "c-1"), Subject("t1", "c-2")}


def test_twice_sealed_it_is_never_the_same() -> None:
    keys = keys_of(EVENT)
    one, other = (json.loads(encoded(EVENT, keys).payload)["email"] for _ in range(2))
    assert one != other


def test_of_a_destroyed_key_readers_get_forgotten() -> None:
    keys = keys_of(EVENT)
    event = REGISTRY.decode(encoded(EVENT, keys), Opening(by_id(keys, destroyed)))
    assert isinstance(event, SignedUp)
    assert event.email is FORGOTTEN
    assert event.born is FORGOTTEN
    assert event.nicknames is FORGOTTEN
    assert event.addresses[0].street is FORGOTTEN
    assert (event.customer_id, event.cents) == ("c-1", 7)
    assert event.email.upper() == "[FORGOTTEN]"


def test_one_subject_is_forgotten_and_the_other_is_not() -> None:
    keys = keys_of(EVENT)
    gone = by_id(keys, lambda key: destroyed(key) if key.subject.name == "c-1" else key)
    event = REGISTRY.decode(encoded(EVENT, keys), Opening(gone))
    assert isinstance(event, SignedUp)
    assert event.email is FORGOTTEN
    assert event.addresses == EVENT.addresses


def test_of_whom_is_forgotten_nothing_is_written_any_more() -> None:
    keys = {each: destroyed(key) for each, key in keys_of(EVENT).items()}
    message = encoded(EVENT, keys)
    assert [text for text in PLAIN if text.encode() in message.payload] == []
    assert key_ids([message.payload]) == set()
    event = REGISTRY.decode(message, Opening({}))
    assert isinstance(event, SignedUp)
    assert event.email is FORGOTTEN


def test_what_was_read_as_forgotten_travels_on_as_forgotten() -> None:
    keys = keys_of(EVENT)
    event = REGISTRY.decode(encoded(EVENT, keys), Opening(by_id(keys, destroyed)))
    assert isinstance(event, Event)
    again = REGISTRY.decode(encoded(event, keys), Opening(by_id(keys)))
    assert again == event


def test_without_keys_values_are_carried_sealed_and_readable_where_the_keys_are() -> None:
    keys = keys_of(EVENT)
    carried = REGISTRY.decode(encoded(EVENT, keys))
    assert isinstance(carried, SignedUp)
    assert isinstance(carried.email, Sealed)
    copied = SignedUp(customer_id="c-1", email=str(carried.email), born=carried.born)
    assert subjects_of(copied, "") == {}
    event = REGISTRY.decode(encoded(copied, {}), Opening(by_id(keys)))
    assert isinstance(event, SignedUp)
    assert (event.email, event.born) == (EVENT.email, EVENT.born)


def test_a_value_that_was_sealed_for_somebody_else_is_refused() -> None:
    keys = keys_of(EVENT)
    theirs = json.loads(encoded(EVENT, keys).payload)["email"]
    stolen = SignedUp(customer_id="c-9", email=theirs)
    with pytest.raises(PersonalDataError) as caught:
        REGISTRY.decode(encoded(stolen, {}), Opening(by_id(keys)))
    assert caught.value.code == "EB3114"


def test_a_value_of_another_tenant_is_refused() -> None:
    keys = keys_of(EVENT, "t1")
    message = encoded(EVENT, keys, "t1")
    assert REGISTRY.decode(message, Opening(by_id(keys), "t1")) == EVENT
    with pytest.raises(PersonalDataError) as caught:
        REGISTRY.decode(message, Opening(by_id(keys), "t2"))
    assert caught.value.code == "EB3114"


def test_a_changed_value_is_refused() -> None:
    keys = keys_of(EVENT)
    message = encoded(EVENT, keys)
    body = json.loads(message.payload)
    token: str = body["email"]
    body["email"] = token[:60] + ("A" if token[60] != "A" else "B") + token[61:]
    broken = Message(
        id="1", type=message.type, source="/x", topic="shop", payload=json.dumps(body).encode()
    )
    with pytest.raises(PersonalDataError) as caught:
        REGISTRY.decode(broken, Opening(by_id(keys)))
    assert caught.value.code == "EB3114"
    assert "ada" not in str(caught.value)


def test_a_key_that_is_not_there_is_no_forgotten_one() -> None:
    with pytest.raises(PersonalDataError) as caught:
        REGISTRY.decode(encoded(EVENT, keys_of(EVENT)), Opening({}))
    assert caught.value.code == "EB3115"
    assert isinstance(caught.value, CodecError)


@pytest.mark.parametrize("subject", ["", None])
def test_a_personal_value_needs_a_subject(subject: str | None) -> None:
    class Loose(Event, type="shop.loose"):
        whom: str | None = None
        email: Annotated[str | None, Personal(subject="whom")] = None

    with pytest.raises(PersonalDataError) as caught:
        subjects_of(Loose(whom=subject, email="ada@example.com"), "")
    assert caught.value.code == "EB3117"
    assert "ada" not in str(caught.value)
    assert subjects_of(Loose(whom=subject), "") == {}


def test_without_a_key_nothing_is_written() -> None:
    with pytest.raises(PersonalDataError) as caught:
        encoded(EVENT, {})
    assert caught.value.code == "EB3118"


def test_upcasters_see_plain_values() -> None:
    old = Named(customer_id="c-1", name="Ada Lovelace")
    keys = keys_of(old)
    event = REGISTRY.decode(encoded(old, keys), Opening(by_id(keys)))
    assert event == Renamed(customer_id="c-1", first="Ada", last="Lovelace")


def test_what_was_recorded_before_a_field_became_personal_reads_as_it_is() -> None:
    body = b'{"customer_id": "c-1", "email": "ada@example.com"}'
    old = Message(id="1", type="shop.signed-up", source="/x", topic="shop", payload=body)
    event = REGISTRY.decode(old, Opening({}))
    assert event == SignedUp(customer_id="c-1", email="ada@example.com")


def test_a_value_that_no_longer_validates_is_told_without_it() -> None:
    class Strict(Event, type="shop.signed-up"):
        customer_id: str
        email: Annotated[int | Forgotten, Personal(subject="customer_id")]

    keys = keys_of(EVENT)
    with pytest.raises(DecodeError) as caught:
        Registry([Strict]).decode(encoded(EVENT, keys), Opening(by_id(keys)))
    assert caught.value.code == "EB3102"
    assert "email" in str(caught.value)
    assert "ada" not in str(caught.value)


def test_messages_show_no_personal_values() -> None:
    for text in (repr(EVENT), str(EVENT), f"{EVENT}"):
        assert "ada@" not in text
        assert "email='[personal]'" in text
    forgotten = SignedUp(customer_id="c-1", email=FORGOTTEN)
    assert "email=Forgotten()" in repr(forgotten)
    assert "secret" not in repr(next(iter(keys_of(EVENT).values())))


def test_the_application_writes_its_own_json_plain() -> None:
    assert json.loads(EVENT.model_dump_json())["email"] == "ada@example.com"


def test_tokens_are_hidden_in_any_text() -> None:
    text = encoded(EVENT, keys_of(EVENT)).payload.decode()
    assert "sealed:" not in hidden(text)
    assert json.loads(hidden(text))["email"] == "[personal]"
    assert hidden("nothing") == "nothing"


def test_texts_that_were_read_are_taken_out_of_failures() -> None:
    keys = keys_of(EVENT)
    opening = Opening(by_id(keys))
    REGISTRY.decode(encoded(EVENT, keys), opening)
    told = without(f"no mail to {EVENT.email}, {EVENT.addresses[0].street}", opening.texts)
    assert told == "no mail to [personal], [personal]"


def test_only_marked_classes_are_personal() -> None:
    class Plain(Event, type="shop.plain"):
        customer_id: str

    assert is_personal(EVENT)
    assert not is_personal(Plain(customer_id="c-1"))
    assert not is_personal("shop.plain")
    assert Registry([SignedUp, Plain]).personal == {"shop.signed-up"}


class NoSuchSubject(Event, type="wrong.subject"):
    customer_id: str
    email: Annotated[str, Personal(subject="customer")]


class SubjectBehind(Event, type="wrong.behind"):
    email: Annotated[str, Personal(subject="customer_id")]
    customer_id: str


class NoText(Event, type="wrong.no-text"):
    customer_id: str
    born: Annotated[date, Personal(subject="customer_id")]


class PersonalKey(Event, type="wrong.key", key="email"):
    customer_id: str
    email: Annotated[str, Personal(subject="customer_id")]


class Inside(Event, type="wrong.inside"):
    class Part(BaseModel):
        street: Annotated[str, Personal(subject="owner")]

    parts: list[Part]


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (NoSuchSubject, "EB1223"),
        (SubjectBehind, "EB1223"),
        (Inside, "EB1223"),
        (NoText, "EB1224"),
        (PersonalKey, "EB1225"),
    ],
)
def test_a_wrong_mark_is_found_when_the_bus_is_built(cls: type[Event], code: str) -> None:
    with pytest.raises(WiringError) as caught:
        Registry([cls])
    assert caught.value.code == code


@given(st.binary(), st.integers(0, 4))
def test_what_is_sealed_as_a_whole_needs_all_of_its_keys(state: bytes, amount: int) -> None:
    state = b"{" + state
    keys = [Key(os.urandom(16), Subject("", str(n)), os.urandom(32)) for n in range(amount)]
    ids: Keys = {key.id: key for key in keys}
    box = sealed_as_a_whole(state, keys)
    assert key_ids([box]) == set(ids)
    assert opened_as_a_whole(box, ids) == (state, ids)
    for key in keys:
        for wrong in (destroyed(key), Key(key.id, key.subject, os.urandom(32))):
            with pytest.raises(ValueError, match=r"key|sealed"):
                opened_as_a_whole(box, {**ids, key.id: wrong})


@given(st.text(), st.text(min_size=1, max_size=40).filter(lambda name: "\0" not in name))
def test_any_text_comes_back(text: str, customer: str) -> None:
    event = SignedUp(customer_id=customer, email=text)
    keys = keys_of(event)
    assert REGISTRY.decode(encoded(event, keys), Opening(by_id(keys))) == event
