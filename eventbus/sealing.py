"""Keys, and what is sealed with them: tokens in JSON, and bytes as a whole (E4)."""

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, Protocol

from eventbus.errors import MissingExtraError, PersonalDataError

KEY_BYTES = 32
ERASED = "[forgotten]"
HIDDEN = "[personal]"
PREFIX = "sealed:1:"
TOKEN: re.Pattern[str] = re.compile(r"sealed:1:[A-Za-z0-9_-]{22}:[A-Za-z0-9_-]+")
_IN_BYTES = re.compile(rb"sealed:1:([A-Za-z0-9_-]{22}):[A-Za-z0-9_-]+")
_ID_BYTES, _NONCE_BYTES = 16, 12
_ID_LETTERS = 22  # of an id in base64, without padding
BOX = b"\0sealed:1:"  # begins what is sealed as a whole; JSON begins otherwise


class Subject(NamedTuple):
    """Whom personal data are about, in a tenant."""

    tenant: str
    name: str


@dataclass(frozen=True, slots=True)
class Key:
    """The key of one subject."""

    id: bytes  # 16; in everything that was sealed with it
    subject: Subject
    secret: bytes | None = field(repr=False)  # None: destroyed


Keys = Mapping[bytes, Key]
NO_KEYS: Keys = {}


class KeySource(Protocol):
    """Where keys come from."""

    async def opening(self, payloads: Sequence[bytes], tx: Any = None) -> Keys:
        """The keys of everything sealed in them, in one read at most.

        Args:
            payloads: JSON, or what `sealed_as_a_whole` wrote.
            tx: the transaction the caller holds; words do not know its class.
        """
        ...

    async def sealing(self, subjects: Iterable[Subject], tx: Any = None) -> Mapping[Subject, Key]:
        """The keys of subjects; whoever had none has one now, committed with `tx`."""
        ...


def key_ids(payloads: Iterable[bytes]) -> set[bytes]:
    """The ids of the keys that are needed to read them."""
    found: set[bytes] = set()
    for payload in payloads:
        if payload.startswith(BOX):
            found.update(_ids_of_box(payload))
        else:
            found.update(_unpadded(letters) for letters in _IN_BYTES.findall(payload))
    return found


def key_id_of(token: str) -> bytes:
    """The id of the key that a token was sealed with."""
    return _unpadded(token[len(PREFIX) : len(PREFIX) + _ID_LETTERS].encode())


def seal(key: Key, plain: bytes) -> str:
    """A token: text that says which key opens it."""
    if key.secret is None:
        return ERASED
    head = f"{PREFIX}{_letters(key.id)}"
    return f"{head}:{_letters(encrypted(key.secret, plain, head.encode()))}"


def opened(key: Key, token: str) -> bytes | None:
    """What was sealed; None: its key was destroyed.

    Raises:
        PersonalDataError: EB3114, it was changed.
    """
    if key.secret is None:
        return None
    head, _, body = token.rpartition(":")
    return decrypted(key.secret, _unpadded(body.encode()), head.encode())


def hidden(text: str) -> str:
    """A text with every token in it hidden."""
    return TOKEN.sub(HIDDEN, text) if PREFIX in text else text


def sealed_as_a_whole(state: bytes, keys: Sequence[Key]) -> bytes:
    """Bytes that only all of these keys together open; without keys, as they are."""
    standing = [key for key in keys if key.secret is not None]
    if not standing:
        return state
    head = BOX + len(standing).to_bytes(4) + b"".join(key.id for key in standing)
    for key in standing:
        assert key.secret is not None  # noqa: S101 - just looked at
        state = encrypted(key.secret, state, head)
    return head + state


def opened_as_a_whole(state: bytes, keys: Keys) -> tuple[bytes, Keys]:
    """What `sealed_as_a_whole` was given, and the keys that opened it.

    Raises:
        ValueError: a key was destroyed, or is not there, or it was changed.
    """
    if not state.startswith(BOX):
        return state, NO_KEYS
    ids = _ids_of_box(state)
    end = len(BOX) + 4 + len(ids) * _ID_BYTES
    head, body = state[:end], state[end:]
    for each in reversed(ids):
        key = keys.get(each)
        if key is None or key.secret is None:
            raise ValueError("a key that it was sealed with is not there any more")
        try:
            body = decrypted(key.secret, body, head)
        except PersonalDataError as error:
            raise ValueError(error.what) from None
    return body, {each: keys[each] for each in ids}


def encrypted(secret: bytes, plain: bytes, about: bytes) -> bytes:
    """AES-256-GCM under a random nonce, which comes first; `about` is authenticated with it.

    Source: NIST SP 800-38D §8.3, at most 2^32 random nonces per key.
    """
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + bytes(_cipher()(secret).encrypt(nonce, plain, about))


def decrypted(secret: bytes, sealed: bytes, about: bytes) -> bytes:
    """What `encrypted` was given.

    Raises:
        PersonalDataError: EB3114, another key, or it was changed.
    """
    from cryptography.exceptions import InvalidTag

    try:
        return bytes(_cipher()(secret).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about))
    except (InvalidTag, ValueError):
        raise changed("its authentication tag does not fit") from None


@cache
def _cipher() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise MissingExtraError(
            "EB1005",
            "personal data need the library cryptography",
            where="EventBus(…, master_key=…)",
            why="it is not installed; AES-256-GCM is not in the standard library",
            next="pip install 'eventbus[crypto]'",
        ) from None
    return AESGCM


def require_cipher() -> None:
    """Raise EB1005 where the library is missing."""
    _cipher()


def _ids_of_box(box: bytes) -> list[bytes]:
    start = len(BOX) + 4
    count = int.from_bytes(box[len(BOX) : start])
    ids = box[start : start + count * _ID_BYTES]
    return [ids[at : at + _ID_BYTES] for at in range(0, len(ids), _ID_BYTES)]


def _letters(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def _unpadded(letters: bytes) -> bytes:
    return urlsafe_b64decode(letters + b"=" * (-len(letters) % 4))


def changed(why: str) -> PersonalDataError:
    """EB3114: what was sealed is not what is there."""
    return PersonalDataError(
        "EB3114",
        "sealed personal data cannot be opened",
        where="a field of the message",
        why=why,
        next="it is quarantined, nothing is lost: look who wrote it",
    )
