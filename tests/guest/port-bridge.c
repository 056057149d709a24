// SPDX-License-Identifier: Apache-2.0
/*
 * port-bridge: connects each virtio-serial port to the agent over vsock loopback as long as the host has the port open.
 * QEMU saves no guest with a vhost-user device, so a guest that is saved has ports in place of a vsock device.
 * A byte tells the host that it begins: it has seen that the connection before was closed. It keeps to CPU 0, where it runs also while the other CPUs are parked.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

#define AGENT_PORT	777
#define PORTS		4
#define WAIT_US		5000

static bool hung_up(int fd)
{
	struct pollfd file = { fd, POLLIN, 0 };

	poll(&file, 1, 0);
	return file.revents & POLLHUP;
}

static int connect_agent(int port)
{
	static unsigned calls;
	struct sockaddr_vm own = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY };
	const struct sockaddr_vm agent = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = AGENT_PORT,
	};

	for (;;) {
		int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

		own.svm_port = 1 + 100 * port + calls++ % 100;
		if (fd >= 0 && !bind(fd, (struct sockaddr *)&own, sizeof own) &&
		    !connect(fd, (const struct sockaddr *)&agent, sizeof agent))
			return fd;
		close(fd);
		usleep(WAIT_US);
	}
}

/* False: that side has ended. */
static bool pass(int from, int to)
{
	char data[32768];
	ssize_t got = read(from, data, sizeof data);

	for (ssize_t put = 0, done; put < got; put += done)
		if ((done = write(to, data + put, got - put)) < 0)
			return false;
	return got > 0;
}

static void serve(int port)
{
	char path[32];
	int host;

	snprintf(path, sizeof path, "/dev/vport0p%d", port);
	while ((host = open(path, O_RDWR)) < 0)
		usleep(WAIT_US);
	for (;;) {
		int agent;
		bool open;

		while (hung_up(host))
			usleep(WAIT_US);
		agent = connect_agent(port);
		open = write(host, "!", 1) == 1;
		while (open) {
			struct pollfd files[] = { { host, POLLIN, 0 }, { agent, POLLIN, 0 } };

			poll(files, 2, -1);
			if (files[0].revents & POLLIN)
				open = pass(host, agent);
			else if (files[0].revents & POLLHUP)
				open = false;
			if (open && files[1].revents)
				open = pass(agent, host);
		}
		close(agent);
		/* What the agent ended is not begun anew before the host has closed. */
		while (!hung_up(host))
			usleep(WAIT_US);
	}
}

int main(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(0, &one);
	if (sched_setaffinity(0, sizeof one, &one)) {
		perror("port-bridge");
		return 1;
	}
	mlockall(MCL_CURRENT | MCL_FUTURE);
	for (int port = 1; port < PORTS; port++)
		if (!fork())
			serve(port);
	serve(PORTS);
}
