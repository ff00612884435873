"""What is made quickly is what the standard library makes."""

import pickle
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import pytest

from eventbus.uuids import uuid_met_again, uuid_of, uuid_of_name

KNOWN = UUID("0192f0c1-23ab-7def-8123-456789abcdef")


@pytest.mark.parametrize(
    "text", [str(KNOWN), str(KNOWN).upper(), KNOWN.hex, f"{{{KNOWN}}}", KNOWN.urn, f" {KNOWN.hex} "]
)
def test_text_in_any_form_is_read_as_by_the_standard_library(text: str) -> None:
    try:
        wanted = UUID(text)
    except ValueError:
        wanted = None
    for read in (uuid_of, uuid_met_again):
        if wanted is None:
            with pytest.raises(ValueError, match="UUID"):
                read(text)
        else:
            assert read(text) == wanted


@pytest.mark.parametrize("text", ["", "A-1", f"{KNOWN}0", "0" * 36, "g" * 8 + str(KNOWN)[8:]])
def test_what_is_no_uuid_is_none(text: str) -> None:
    for read in (uuid_of, uuid_met_again, UUID):
        with pytest.raises(ValueError):  # noqa: PT011 - the words are the standard library's
            read(text)


def test_it_can_be_used_as_any_other() -> None:
    made = uuid_of(str(KNOWN))
    assert (str(made), hash(made), made.bytes) == (str(KNOWN), hash(KNOWN), KNOWN.bytes)
    assert (made.version, made.variant, made.is_safe) == (7, KNOWN.variant, KNOWN.is_safe)
    assert pickle.loads(pickle.dumps(made)) == KNOWN


def test_a_uuid_of_a_name_is_of_version_five() -> None:
    for namespace in (NAMESPACE_URL, KNOWN, *(uuid4() for _ in range(50))):
        for name in ("", "a", "shop\0A-1", "é✓"):
            made = uuid_of_name(namespace, name)
            assert (made, made.version) == (uuid5(namespace, name), 5)
            assert made.variant == KNOWN.variant
