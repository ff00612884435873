"""A CloudEvents envelope in the JSON format: what is read of it, and what is refused."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventbus.structured import unfold

TYPE = "application/cloudevents+json"
WHOLE = '"specversion":"1.0","id":"1","source":"/s","type":"t"'
DEEP = "[" * 200_000


def envelope(more: str = "") -> bytes:
    return f"{{{WHOLE}{more}}}".encode()


@pytest.mark.parametrize(
    ("more", "payload"),
    [
        ("", b""),
        (',"data":null', b"null"),
        (',"data": {"n" : 1.10, "big": 1e400} ', b'{"n" : 1.10, "big": 1e400}'),
        (',"data":"text"', b'"text"'),
        (',"datacontenttype":"application/x+json","data":"text"', b'"text"'),
        (',"datacontenttype":"text/plain","data":"a\\nb"', b"a\nb"),
        (',"data_base64":"AP8="', b"\x00\xff"),
    ],
)
def test_the_data_comes_byte_for_byte(more: str, payload: bytes) -> None:
    assert unfold(TYPE, envelope(more))[1] == payload


def test_attributes_are_texts_and_null_is_absent() -> None:
    attributes, _ = unfold(TYPE, b" " + envelope(',"n":7,"yes":true,"none":null') + b"\n")
    assert attributes == {
        "specversion": "1.0",
        "id": "1",
        "source": "/s",
        "type": "t",
        "n": "7",
        "yes": "true",
    }


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text())))
def test_any_data_comes_back(data: dict[str, object]) -> None:
    assert json.loads(unfold(TYPE, envelope(f',"data":{json.dumps(data)}'))[1]) == data


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no JSON object"),
        (b"[]", "no JSON object"),
        (b"{}", "missing or empty in its envelope: specversion, id, source, type"),
        (b"{\xff}", "not UTF-8"),
        (envelope() + b"x", "something follows"),
        (envelope(","), "no JSON object"),
        (envelope(',"id":"2"'), "the name of another"),
        (envelope(',"data":NaN'), "NaN"),
        (envelope(f',"data":{DEEP}'), "too deeply"),
        (envelope(',"x":1.5'), "'x' is no text"),
        (envelope(',"X-Y":"1"'), "no name of an attribute"),
        (envelope(',"x":"\\ud800"'), "lone surrogate"),
        (envelope(f',"x":"{"x" * 8192}"'), "limits"),
        (envelope(',"data":1,"data_base64":"AP8="'), "both"),
        (envelope(',"data_base64":"A"'), "no base64"),
        (envelope(',"data_base64":7'), "no base64"),
        (envelope().replace(b"1.0", b"2.0"), "specversion '2.0'"),
    ],
)
def test_what_is_no_envelope_is_refused_in_words(body: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        unfold(TYPE, body)


@given(st.binary() | st.text().map(lambda text: b'{"' + text.encode() + b'":'))
@example(b'{"0":[]}')
@example(b'{"":[]}')
def test_of_any_bytes_only_value_errors_come(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):  # in which words depends on how far it is one
        unfold(TYPE, body)


@pytest.mark.parametrize(
    "other",
    [
        "application/cloudevents+avro",
        "application/cloudevents-batch+json",
        f"{TYPE}; charset=latin-1",
    ],
)
def test_other_formats_are_named(other: str) -> None:
    with pytest.raises(ValueError, match="only the JSON format"):
        unfold(other, envelope())
