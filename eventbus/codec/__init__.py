"""Typed messages to bytes and back: the only room that knows both (B1, B2)."""

from eventbus.codec.encoder import Encoder, tenant_of
from eventbus.codec.headers import MAX_HEADER_BYTES, MAX_HEADERS, own_attributes
from eventbus.codec.plan import Plan, is_personal, personal_texts, plan_of, subjects_of
from eventbus.codec.registry import Registry
from eventbus.codec.shapes import schemas_of
from eventbus.codec.untyped import MAX_DEPTH, decode_untyped

__all__ = [
    "MAX_DEPTH",
    "MAX_HEADERS",
    "MAX_HEADER_BYTES",
    "Encoder",
    "Plan",
    "Registry",
    "decode_untyped",
    "is_personal",
    "own_attributes",
    "personal_texts",
    "plan_of",
    "schemas_of",
    "subjects_of",
    "tenant_of",
]
