"""Keys go where Java clients put them."""

import pytest
from aiokafka import partitioner
from hypothesis import given
from hypothesis import strategies as st

from eventbus_kafka.partitions import Partitions, murmur2

# of the tests of org.apache.kafka.common.utils.Utils.murmur2
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", JAVA)
def test_the_hash_is_that_of_java(key: bytes) -> None:
    assert murmur2(key) == JAVA[key] & 0xFFFFFFFF


@given(st.binary(max_size=80))
def test_the_hash_is_that_of_the_client(key: bytes) -> None:
    assert murmur2(key) == partitioner.murmur2(key)


@given(st.binary(max_size=40), st.integers(1, 64))
def test_a_key_has_one_partition(key: bytes, count: int) -> None:
    partitions = Partitions()
    partitions.learn("shop", count)
    number = partitions.of("shop", key, 1)
    assert number == (partitioner.murmur2(key) & 0x7FFFFFFF) % count
    assert partitions.of("shop", key, 2) == number


def test_a_changed_count_is_not_answered_from_memory() -> None:
    partitions = Partitions()
    partitions.learn("shop", 1)
    assert partitions.of("shop", b"foobar", 1) == 0
    partitions.learn("shop", 1000)
    assert partitions.of("shop", b"foobar", 1) == (JAVA[b"foobar"] & 0x7FFFFFFF) % 1000


def test_what_has_no_key_takes_turns_by_call() -> None:
    partitions = Partitions()
    partitions.learn("shop", 3)
    turns = [partitions.of("shop", None, partitions.next_unkeyed()) for _ in range(6)]
    assert sorted(turns[:3], key=str) == [0, 1, 2]
    assert turns[:3] == turns[3:]


def test_an_unknown_topic_has_none() -> None:
    partitions = Partitions()
    assert partitions.of("shop", b"k", 1) is None
    partitions.learn("shop", 2)
    partitions.forget("shop")
    assert "shop" not in partitions
