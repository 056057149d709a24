"""The ways in which hosts differ, for the host of the tests to choose from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Behaviour:
    """How a host behaves. With the defaults it keeps to the virtio standard and loses nothing."""

    buffer: int = 256 << 10
    """Bytes that a stream's sender in the guest may have under way, as each packet announces it."""

    credit_step: int | None = None
    """Bytes that are taken before the guest is told so; None: half of the smaller of both sides' buffers."""

    answers_credit_requests: bool = True

    half_close: bool = True
    """False: the end of what a socket of the host sends is told by RST, which ends both directions."""

    one_data_descriptor: bool = False
    """What a packet from the guest has in further descriptors is lost."""

    padded_replies: bool = False
    """A reply fills the guest's whole buffer; what follows its own bytes is whatever was there."""

    swapped_cids: bool = False
    """A datagram to the guest bears the guest's CID as its source and the host's as its destination."""

    release_delay: float = 0.0
    """Seconds after which RELEASE removes a socket that does not listen, by its ports alone."""

    errors_are_refusals: bool = False
    """Whatever ends a connection's attempt later than at once is reported as ECONNREFUSED."""


STANDARD = Behaviour()
LIBKRUN = Behaviour(
    buffer=8 << 20,
    credit_step=4 << 20,
    answers_credit_requests=False,
    half_close=False,
    one_data_descriptor=True,
    padded_replies=True,
    swapped_cids=True,
    release_delay=5.0,
    errors_are_refusals=True,
)
"""The ways of libkrun 1.17, as they were observed from a guest."""
