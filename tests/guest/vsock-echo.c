// SPDX-License-Identifier: Apache-2.0
/*
 * vsock-echo listen PORT: says "listening on PORT" and gives every caller back what it sends, until its end of data.
 * vsock-echo connect PORT: does the same with one connection to the host (CID 2).
 * BUFFER in the environment: the size of each socket's buffer, in bytes.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void echo(int fd)
{
	static char data[28 << 10]; /* what a packet holds in one descriptor */
	ssize_t got;

	while ((got = read(fd, data, sizeof data)) > 0)
		for (ssize_t sent = 0, put; sent < got; sent += put)
			if ((put = send(fd, data + sent, got - sent, MSG_NOSIGNAL)) < 0)
				fail("send");
	if (got < 0)
		fail("read");
}

static int new_socket(void)
{
	unsigned long long size = getenv("BUFFER") ? strtoull(getenv("BUFFER"), NULL, 10) : 0;
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (size && (setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &size, sizeof size) ||
		     setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, sizeof size)))
		fail("buffer");
	return fd;
}

int main(int argc, char **argv)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY };
	int fd = new_socket(), caller;

	if (argc != 3)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGCHLD, SIG_IGN);
	address.svm_port = atoi(argv[2]);
	if (!strcmp(argv[1], "connect")) {
		address.svm_cid = VMADDR_CID_HOST;
		if (connect(fd, (struct sockaddr *)&address, sizeof address))
			fail("connect");
		echo(fd);
		return 0;
	}
	if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 1024))
		fail("listen");
	printf("listening on %s\n", argv[2]);
	while ((caller = accept(fd, NULL, NULL)) >= 0) {
		if (!fork()) {
			close(fd);
			echo(caller);
			exit(0);
		}
		close(caller);
	}
	fail("accept");
}
