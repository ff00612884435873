"""What every transport must pass: subclass `TransportSuite`, give it two fixtures."""

from eventbus.testing.conformance.transport.handled import HandledCases
from eventbus.testing.conformance.transport.leaving import LeavingCases
from eventbus.testing.conformance.transport.member import BreakEnvelope, Connect
from eventbus.testing.conformance.transport.membership import MembershipCases
from eventbus.testing.conformance.transport.publishing import PublishingCases
from eventbus.testing.conformance.transport.subscribing import SubscribingCases
from eventbus.testing.conformance.transport.verdicts import VerdictCases

__all__ = ["BreakEnvelope", "Connect", "TransportSuite"]


class TransportSuite(
    PublishingCases,
    SubscribingCases,
    VerdictCases,
    MembershipCases,
    LeavingCases,
    HandledCases,
):
    """Holds an adapter to `eventbus.transport` without touching its network.

    Fixtures that the subclass gives; nothing else is to be overridden:

    - `connect`: a `Connect`. Each call makes one more transport, not entered yet, on the same
      broker: what another process would be. It may be called several times per test. A transport
      with `HasTopology` gets its plan applied, so it must be allowed to provision topics.
    - `break_envelope`: a `BreakEnvelope`. It stores, past the adapter's own mapping, a record in
      the message's topic, under its key, whose envelope cannot be read.

    Every test takes topics and groups of its own, waits at most `member.WITHIN` seconds for
    anything, and skips only what a named capability leaves out.
    """
