"""The tenant of a saga, which no message reminds it of when a timer fires."""

from uuid import UUID, uuid4

LONGEST_TENANT = (1 << 12) - 1  # characters
_VERSION_8 = 8 << 76  # RFC 9562 5.8: bits of our own
_OURS = 0xFFFF << 64  # the version, and 12 bits


def new_saga_id(tenant: str) -> UUID:
    """Random but for 12 bits: how many characters of the business key are the tenant.

    Raises:
        ValueError: the tenant has more than `LONGEST_TENANT` characters.
    """
    if len(tenant) > LONGEST_TENANT:
        raise ValueError(f"a tenant of {len(tenant):,} characters")
    return UUID(int=uuid4().int & ~_OURS | _VERSION_8 | len(tenant) << 64)


def tenant_of(saga_id: UUID, key: str) -> str:
    """The tenant before the business key; empty: none."""
    return key[: saga_id.int >> 64 & LONGEST_TENANT]


def with_tenant(tenant: str, value: str) -> str:
    """As keys have it."""
    return f"{tenant}/{value}" if tenant else value
