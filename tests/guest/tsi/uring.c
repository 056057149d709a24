// SPDX-License-Identifier: Apache-2.0
/* The same calls through io_uring, without a library. */
#include "cases.h"

#include <linux/io_uring.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static struct {
	int fd;
	unsigned int *submit_tail, *submit_mask, *submit_array, *done_head, *done_tail, *done_mask;
	struct io_uring_sqe *entries;
	struct io_uring_cqe *done;
} ring;

static void set_up(void)
{
	struct io_uring_params how = { 0 };
	char *map;

	CHECK((ring.fd = syscall(SYS_io_uring_setup, 4, &how)) >= 0);
	CHECK(how.features & IORING_FEAT_SINGLE_MMAP);
	map = mmap(NULL, how.cq_off.cqes + how.cq_entries * sizeof *ring.done + 4096, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
	CHECK(map != MAP_FAILED);
	ring.entries = mmap(NULL, how.sq_entries * sizeof *ring.entries, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
	CHECK(ring.entries != MAP_FAILED);
	ring.submit_tail = (void *)(map + how.sq_off.tail);
	ring.submit_mask = (void *)(map + how.sq_off.ring_mask);
	ring.submit_array = (void *)(map + how.sq_off.array);
	ring.done_head = (void *)(map + how.cq_off.head);
	ring.done_tail = (void *)(map + how.cq_off.tail);
	ring.done_mask = (void *)(map + how.cq_off.ring_mask);
	ring.done = (void *)(map + how.cq_off.cqes);
}

static int done(struct io_uring_sqe entry)
{
	unsigned int tail = *ring.submit_tail, index = tail & *ring.submit_mask;
	int result;

	ring.entries[index] = entry;
	ring.submit_array[index] = index;
	atomic_store((_Atomic unsigned int *)ring.submit_tail, tail + 1);
	CHECK(syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
	CHECK(atomic_load((_Atomic unsigned int *)ring.done_tail) != *ring.done_head);
	result = ring.done[*ring.done_head & *ring.done_mask].res;
	++*ring.done_head;
	return result;
}

static struct io_uring_sqe with(int operation, int fd, const void *data, unsigned int size)
{
	return (struct io_uring_sqe){ .opcode = operation, .fd = fd, .addr = (unsigned long)data, .len = size };
}

CASE(uring_connects_sends_and_receives)
{
	union address to = loopback(AF_INET, server_port);
	struct io_uring_sqe entry;
	char got[10] = "";
	int fd = tcp(AF_INET);

	set_up();
	entry = with(IORING_OP_CONNECT, fd, &to, 0);
	entry.off = length(&to);
	CHECK(done(entry) == 0);
	CHECK(done(with(IORING_OP_SEND, fd, "echo\nring", 9)) == 9);
	CHECK(done(with(IORING_OP_RECV, fd, got, sizeof got)) == 4 && !strcmp(got, "ring"));
}

CASE(uring_connect_that_is_refused)
{
	union address to = loopback(AF_INET, closed_port);
	struct io_uring_sqe entry;

	set_up();
	entry = with(IORING_OP_CONNECT, tcp(AF_INET), &to, 0);
	entry.off = length(&to);
	CHECK(done(entry) == -ECONNREFUSED);
}

CASE(uring_accepts)
{
	union address at = loopback(AF_INET, 0);
	int listener, fd;

	set_up();
	listener = listener_at(&at);
	dial(port_of(listener), "echo");
	CHECK((fd = done(with(IORING_OP_ACCEPT, listener, NULL, 0))) >= 0);
	echoed(fd, "accepted");
}
