// SPDX-License-Identifier: Apache-2.0
/*
 * vsock-send: takes conversations from its input, each a u32 length and bytes, and has each with the agent over
 * loopback: sends it, reads what comes until that stops for a moment, and closes. Says how many it had.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

#define AGENT_PORT 777
#define TRIES 900 /* a port may still be in use */
#define QUIET_MS 10

static int connect_agent(unsigned call)
{
	const struct sockaddr_vm own = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_ANY,
		.svm_port = 1 + call % (AGENT_PORT - 1),
	};
	const struct sockaddr_vm agent = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_LOCAL,
		.svm_port = AGENT_PORT,
	};
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd >= 0 && !bind(fd, (const struct sockaddr *)&own, sizeof own) &&
	    !connect(fd, (const struct sockaddr *)&agent, sizeof agent))
		return fd;
	close(fd);
	return -1;
}

static void converse(int fd, const uint8_t *data, size_t size)
{
	struct pollfd file = { fd, POLLIN, 0 };
	uint8_t answer[65536];

	for (size_t sent = 0; sent < size;) {
		ssize_t done = send(fd, data + sent, size - sent, MSG_NOSIGNAL);

		if (done < 0)
			break;
		sent += done;
	}
	while (poll(&file, 1, QUIET_MS) > 0 && recv(fd, answer, sizeof answer, 0) > 0)
		;
	close(fd);
}

int main(void)
{
	static uint8_t data[1 << 16];
	unsigned had = 0;
	uint32_t size;

	while (fread(&size, sizeof size, 1, stdin) == 1 && size <= sizeof data && fread(data, 1, size, stdin) == size) {
		int fd = -1;

		for (unsigned call = had; fd < 0 && call < had + TRIES; call++)
			fd = connect_agent(call);
		if (fd < 0)
			break;
		converse(fd, data, size);
		had++;
	}
	printf("%u\n", had);
	return 0;
}
