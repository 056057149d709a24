"""The vsock device of the tests against guests and front ends that lie: one clear error, or one packet refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.guest import link, packet
from scripts.guest.behaviour import STANDARD
from scripts.guest.device import Device
from scripts.guest.link import RX, TX, Link
from scripts.guest.packet import Header
from scripts.guest.vhost_user import Connection
from scripts.guest.virtqueue import GuestError, Queue
from tests.support.driver import BUFFERS, GUEST, NEXT, SIZE, USER, WRITE, Descriptor, Driver

CID = 3
INDIRECT = 4
LAST = GUEST + SIZE
BUFFER = Descriptor(GUEST + BUFFERS, 64, 0)


@pytest.mark.parametrize(
    ("descriptors", "head", "message"),
    [
        ([Descriptor(0, 64, 0)], 0, "expected 64 bytes of the guest's memory at 0x0, found none there"),
        ([Descriptor(LAST - 63, 64, 0)], 0, "expected 64 bytes of the guest's memory at"),
        ([Descriptor(2**64 - 1, 0xFFFFFFFF, 0)], 0, "expected 4294967295 bytes of the guest's memory at"),
        ([BUFFER], 8, "expected a descriptor below 8, found 8"),
        ([BUFFER], 0xFFFF, "expected a descriptor below 8, found 65535"),
        ([BUFFER._replace(flags=NEXT, next=9)], 0, "expected a descriptor below 8, found 9"),
        ([BUFFER._replace(flags=NEXT, next=0)], 0, "expected a chain of at most 8 descriptors"),
        ([BUFFER._replace(flags=INDIRECT)], 0, "expected no indirect descriptor"),
        (
            [BUFFER._replace(flags=WRITE | NEXT, next=1), BUFFER],
            0,
            "expected what is read before what is written, found it after",
        ),
    ],
)
def test_a_descriptor_that_lies_is_an_error(descriptors: list[Descriptor], head: int, message: str) -> None:
    driver = Driver()
    for index, descriptor in enumerate(descriptors):
        driver.describe(index, descriptor)
    driver.offer(head)
    with pytest.raises(GuestError, match=message):
        driver.queue().peek()


def test_more_available_than_there_is_room_for() -> None:
    driver = Driver()
    queue = driver.queue()
    for _ in range(9):
        driver.offer(0)
    with pytest.raises(GuestError, match="expected at most 8 available chains, found 9"):
        queue.peek()


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_size_that_is_none(size: int) -> None:
    with pytest.raises(GuestError, match=f"a power of 2 up to 32768, found {size}"):
        Queue(Driver().memory, size, Driver().places, 0)


def test_ring_outside_of_memory() -> None:
    with pytest.raises(GuestError, match="expected a ring of 128 bytes at QEMU's 0x1000, found no shared memory"):
        Queue(Driver().memory, 8, (0x1000, USER, USER), 0)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.builds(
            Descriptor,
            st.integers(GUEST - 64, LAST + 64) | st.integers(0, 2**64 - 1),
            st.integers(0, 256) | st.integers(0, 2**32 - 1),
            st.integers(0, 3) | st.integers(0, 65535),
            st.integers(0, 9) | st.integers(0, 65535),
        ),
        min_size=8,
        max_size=8,
    ),
    st.lists(st.integers(0, 9), max_size=10),
)
def test_any_descriptors_are_a_chain_or_an_error(descriptors: list[Descriptor], heads: list[int]) -> None:
    driver = Driver()
    for index, descriptor in enumerate(descriptors):
        driver.describe(index, descriptor)
    queue = driver.queue()
    for head in heads:
        driver.offer(head)
    try:
        while (chain := queue.peek()) is not None:
            assert len(chain.readable) + len(chain.writable) <= 8
            queue.use(chain, 0)
    except GuestError:
        pass


class Guest:
    """Both rings of a link, without a QEMU."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.faults: list[BaseException] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(context["exception"]))
        self.link = Link(self.loop, CID, STANDARD)
        self.rx, self.tx = Driver(256), Driver(256)
        self.kicks = [os.pipe() for _ in (RX, TX)]
        self._calls = os.pipe()
        os.set_blocking(self._calls[0], False)
        for index, driver in ((RX, self.rx), (TX, self.tx)):
            os.set_blocking(self.kicks[index][0], False)
            queue = driver.queue()
            queue.set_call(self._calls[1])
            self.link.start_ring(index, queue, self.kicks[index][0])

    def run(self) -> None:
        """Let the device do what it has to do: in a number of passes, as a time may be over before it begins."""
        for index in (RX, TX):
            os.write(self.kicks[index][1], bytes(8))
        for _ in range(20):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        if self.faults:
            raise self.faults[0]

    def interrupts(self) -> int:
        """How often it was interrupted since the last call."""
        try:
            return len(os.read(self._calls[0], 4096)) // 8
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Let go of everything."""
        self.link.stop_ring(TX)
        self.link.stop_ring(RX)
        self.loop.close()
        for pipe in (*self.kicks, self._calls):
            for end in pipe:
                os.close(end)


@pytest.fixture
def lying() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.close()


def header(op: int, **fields: int) -> Header:
    whole = Header(CID, packet.HOST_CID, 5555, 1234, 0, packet.STREAM, op, 0, 1 << 16, 0)
    return whole._replace(**fields)


def answers(guest: Guest) -> list[Header]:
    return [Header.unpack(data) for data in guest.rx.used()]


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (b"short", "a packet whose first descriptor has 5 bytes, less than its header"),
        (header(packet.RW, length=1).pack(), "a packet that says 1 bytes, and has 0"),
        (header(packet.RW, length=0xFFFFFFFF).pack(), "a packet that says 4294967295 bytes, and has 0"),
        (header(packet.RST, source_cid=9).pack(), "a packet from CID 9 to CID 2"),
        (header(packet.RST, cid=7).pack(), "a packet from CID 3 to CID 7"),
        (header(packet.RST, type=2).pack(), "a packet of type 2 with operation 3"),
        (header(packet.RST, type=3).pack(), "a packet of type 3 with operation 3"),
    ],
)
def test_packet_that_lies_is_dropped(lying: Guest, sent: bytes, complaint: str) -> None:
    lying.rx.receive_into([200])
    lying.tx.send(sent)
    lying.run()
    assert lying.link.complaints == [complaint]
    assert answers(lying) == []


@pytest.mark.parametrize("op", [packet.RESPONSE, packet.SHUTDOWN, packet.RW, packet.CREDIT_UPDATE, 77])
def test_packet_for_no_stream_is_answered_with_a_reset(lying: Guest, op: int) -> None:
    lying.rx.receive_into([200])
    lying.tx.send(header(op).pack())
    lying.run()
    (answer,) = answers(lying)
    assert (answer.op, answer.source_port, answer.port, answer.cid) == (packet.RST, 1234, 5555, CID)


def test_more_data_than_credit_ends_the_stream(lying: Guest) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        lying.link.ports[1234] = lambda port: theirs
        lying.rx.receive_into([200] * 200)
        lying.tx.send(header(packet.REQUEST).pack())
        lying.run()
        for _ in range(40):
            lying.tx.send(header(packet.RW, length=60000).pack(), bytes(60000))
            lying.run()
        assert lying.link.complaints == ["stream 1234: more data than the credit it was given"]
        assert [answer.op for answer in answers(lying)][:1] == [packet.RESPONSE]
        assert lying.link.streams == {}


def test_guest_that_takes_no_answers_is_not_heard_any_longer(lying: Guest) -> None:
    """What waits for the guest is bounded: its own packets wait, too."""
    packets = 0
    while packets < 2000:
        before = lying.tx.used()
        lying.tx.send(header(packet.RW).pack())
        lying.run()
        if not lying.tx.used() and not before:
            break
        packets += 1
    assert 200 < packets < 300


def test_buffer_without_room_for_a_packet(lying: Guest) -> None:
    lying.rx.receive_into([20])
    lying.tx.send(header(packet.RW).pack())
    with pytest.raises(GuestError, match="expected a buffer for a header of 44 bytes and a payload, found 20 bytes"):
        lying.run()


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10) | st.integers(0, 65535),
            st.sampled_from([1234, 4321]),
            st.sampled_from([5555, 5556]),
            st.sampled_from([0, 0, 1, 5000, 70000, 2**32 - 1]),
            st.sampled_from([1, 1, 1, 2, 3, 99]),
            st.integers(0, 3) | st.integers(0, 2**32 - 1),
            st.sampled_from([0, 1, 1 << 16, 2**32 - 1]),
            st.integers(0, 2) | st.integers(0, 2**32 - 1),
        ),
        max_size=12,
    )
)
def test_any_packets_are_borne(packets: list[tuple[int, int, int, int, int, int, int, int]]) -> None:
    with contextlib.closing(Guest()) as guest, contextlib.ExitStack() as kept:
        bear(guest, kept, packets)


def bear(
    guest: Guest, kept: contextlib.ExitStack, packets: list[tuple[int, int, int, int, int, int, int, int]]
) -> None:
    def give(port: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        kept.enter_context(ours)
        return theirs

    guest.link.ports[1234] = give
    guest.rx.receive_into([300] * 200)
    for op, port, source_port, length, kind, flags, buffer, consumed in packets:
        sent = Header(CID, 2, source_port, port, length, kind, op, flags, buffer, consumed)
        guest.tx.send(sent.pack(), bytes(5000))
        guest.run()
    assert len(guest.link.streams) <= 2
    kept.close()
    guest.run()


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 45), st.binary(max_size=64)), max_size=6))
def test_any_message_of_the_front_end_is_done_or_an_error(messages: list[tuple[int, bytes]]) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(
            ours, rings=2, config=bytes(8), started=lambda index, queue, kick: None, stopped=lambda index: None
        )
        for request, payload in messages:
            theirs.sendall(struct.pack("<III", request, 1, len(payload)) + payload)
        theirs.shutdown(socket.SHUT_WR)
        try:
            while connection.handle_message():
                pass
        except GuestError:
            pass
        connection.close()


def test_device_tells_its_failure() -> None:
    """One error, where the test is: the front end asks for what was not negotiated."""
    with pytest.raises(GuestError, match=r"the vsock device has failed: expected .* that was negotiated, found 40"):  # noqa: SIM117
        with Device() as device:
            with socket.socket(fileno=os.dup(device.file)) as front_end:
                front_end.sendall(struct.pack("<III", 40, 1, 0))
                assert front_end.recv(1) == b""
            device.connect(777)


def test_a_few_packets_of_the_guest_interrupt_it_later(lying: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_PATIENCE", 3600)
    lying.tx.send(header(packet.RST).pack())
    lying.run()
    assert lying.interrupts() == 0
    lying.rx.receive_into([200])
    lying.link.send(header(packet.RST))
    lying.run()
    assert lying.interrupts() == 2, "a packet for the guest was to interrupt it for both rings"


def test_a_few_packets_of_the_guest_interrupt_it_at_last(lying: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_PATIENCE", 0)
    lying.tx.send(header(packet.RST).pack())
    lying.run()
    assert lying.interrupts() == 1


def test_a_quarter_of_the_ring_interrupts_the_guest_at_once(lying: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_PATIENCE", 3600)
    for _ in range(63):
        lying.tx.send(header(packet.RST).pack())
        lying.run()
    assert lying.interrupts() == 0
    lying.tx.send(header(packet.RST).pack())
    lying.run()
    assert lying.interrupts() == 1


def test_a_ring_that_stops_interrupts_the_guest_before(lying: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_PATIENCE", 3600)
    lying.tx.send(header(packet.RST).pack())
    lying.run()
    lying.link.stop_ring(TX)
    assert lying.interrupts() == 1
    lying.link.start_ring(TX, lying.tx.queue(), lying.kicks[TX][0])
