"""A broker inside the process: the same promises as the real ones, and their misbehaviour."""

from eventbus.memory.broker import MemoryBroker
from eventbus.memory.transport import MemoryTransport

__all__ = ["MemoryBroker", "MemoryTransport"]
