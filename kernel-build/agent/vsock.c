// SPDX-License-Identifier: Apache-2.0
/* The agent's address on vsock: for its callers, and for root in the guest, who calls over loopback. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 4096 /* the most a kernel allows by default */
#define AGENT_WAIT_MS 30000 /* for an agent that is just starting */
#define CALLER_BUFFER (8 << 20) /* bytes */
#define LOWEST_PORT 512
#define OWN_PORTS 512 /* from LOWEST_PORT; the agent's own among them is taken, and passed over */

/*
 * The host, and root in this guest: over loopback anybody may connect, but only
 * root can do so from a port below 1024.
 */
static bool may_call(int fd)
{
	struct sockaddr_vm peer = { 0 };
	socklen_t size = sizeof peer;

	return !getpeername(fd, (struct sockaddr *)&peer, &size) &&
	       (peer.svm_cid == VMADDR_CID_HOST || (peer.svm_cid == VMADDR_CID_LOCAL && peer.svm_port < 1024));
}

/*
 * Linux sends at most as much ahead as its own socket's buffer has, 256 KiB by
 * default, and there are hosts that say only every 4 MiB what they have taken:
 * without this a longer output would stop for ever. Accepted sockets inherit it.
 */
static bool enlarge_buffer(int fd)
{
	const unsigned long long size = CALLER_BUFFER;

	return !setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &size, sizeof size) &&
	       !setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, sizeof size);
}

int serve(void)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = AGENT_PORT };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || !enlarge_buffer(fd) || bind(fd, (struct sockaddr *)&address, sizeof address) ||
	    listen(fd, BACKLOG)) {
		fprintf(stderr, "supermachine-agent: cannot listen on vsock port %d: %s\n", AGENT_PORT,
			strerror(errno));
		return 1;
	}
	fprintf(stderr, "supermachine-agent: listening on vsock port %d\n", AGENT_PORT);
	return serve_listener(fd, may_call);
}

/*
 * The agent believes a caller on loopback to be root if its port is below 1024.
 * vsock has no TIME_WAIT: a connection from a port whose last connection the agent
 * has not closed yet is taken for a part of that one. So neighbours in time,
 * processes or calls, begin at different ports.
 */
static bool bind_reserved(int fd)
{
	static unsigned calls;
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY };
	unsigned first = getpid() + calls++;

	for (unsigned i = 0; i < OWN_PORTS; i++) {
		address.svm_port = LOWEST_PORT + (first + i) % OWN_PORTS;
		if (!bind(fd, (struct sockaddr *)&address, sizeof address))
			return true;
		if (errno != EADDRINUSE)
			return false;
	}
	return false;
}

int connect_agent(void)
{
	const struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_LOCAL,
		.svm_port = AGENT_PORT,
	};
	const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };

	for (int waited = 0;; waited += 20) {
		int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), error;

		if (fd >= 0 && bind_reserved(fd) && !connect(fd, (const struct sockaddr *)&address, sizeof address))
			return fd;
		error = errno;
		if (fd >= 0)
			close(fd);
		/* What a port that nobody listens on answers. */
		if (error != ECONNRESET || waited >= AGENT_WAIT_MS) {
			fprintf(stderr, "supermachine-agent: cannot call the agent on vsock port %d: %s\n", AGENT_PORT,
				strerror(error));
			return -1;
		}
		nanosleep(&pause, NULL);
	}
}
