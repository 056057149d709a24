// SPDX-License-Identifier: Apache-2.0
/*
 * Sends standard input as it is to vsock CID 1, port 777, and writes what comes back until the other end closes.
 * vsock-raw reserved|any [HALF]: from a port below 1024 or not; HALF: shut the sending side once all is sent.
 * Exit status: 0 the other end closed, 3 it said nothing for 5 s, 1 no connection.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_vm own = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY };
	struct sockaddr_vm agent = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = 777 };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	struct pollfd file = { fd, POLLIN, 0 };
	char data[65536];
	ssize_t got;

	own.svm_port = argc > 1 && !strcmp(argv[1], "reserved") ? 1 + getpid() % 500U : VMADDR_PORT_ANY;
	if (bind(fd, (struct sockaddr *)&own, sizeof own) || connect(fd, (struct sockaddr *)&agent, sizeof agent)) {
		fprintf(stderr, "vsock-raw: %s\n", strerror(errno));
		return 1;
	}
	while ((got = read(0, data, sizeof data)) > 0)
		for (ssize_t sent = 0, put; sent < got; sent += put)
			if ((put = send(fd, data + sent, got - sent, MSG_NOSIGNAL)) < 0)
				return 0;	/* closed before all was sent */
	if (argc > 2)
		shutdown(fd, SHUT_WR);
	while (poll(&file, 1, 5000) > 0) {
		got = read(fd, data, sizeof data);
		if (got <= 0)
			return 0;
		if (write(1, data, got) != got)
			return 1;
	}
	return 3;
}
