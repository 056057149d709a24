// SPDX-License-Identifier: Apache-2.0
/*
 * port-bridge: started in place of the agent, it becomes the agent, and leaves behind processes that connect each
 * virtio-serial port to it over vsock loopback as long as the host has the port open. QEMU saves no guest with a
 * vhost-user device, so a guest that is saved has ports in place of a vsock device.
 * A byte tells the host that it begins: the bridge has seen that the connection before was closed. The bridge keeps to
 * CPU 0, where it runs also while the other CPUs are parked. AGENT is the path of the agent when this is compiled.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

#define AGENT_PORT 777
#define PORTS 4
#define WAIT_US 5000

/* The agent's file */
__asm__(".section .rodata\n.globl agent_begin, agent_end\nagent_begin:\n.incbin \"" AGENT
	"\"\nagent_end:\n.previous\n");
extern const char agent_begin[], agent_end[];

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
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_LOCAL,
		.svm_port = AGENT_PORT,
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
	char pattern[32];
	glob_t found;
	int host;

	/* The first number is the device's among all of virtio. */
	snprintf(pattern, sizeof pattern, "/dev/vport*p%d", port);
	while (glob(pattern, 0, NULL, &found) || (host = open(found.gl_pathv[0], O_RDWR)) < 0)
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

static void start_bridge(int port)
{
	cpu_set_t one;

	if (fork())
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close_range(STDERR_FILENO + 1, ~0U, 0);
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	if (sched_setaffinity(0, sizeof one, &one)) {
		perror("port-bridge");
		_exit(1);
	}
	mlockall(MCL_CURRENT | MCL_FUTURE);
	serve(port);
}

int main(int argc, char **argv)
{
	int file = memfd_create("supermachine-agent", MFD_CLOEXEC);

	(void)argc;
	for (int port = 1; port <= PORTS; port++)
		start_bridge(port);
	if (write(file, agent_begin, agent_end - agent_begin) == agent_end - agent_begin)
		fexecve(file, argv, environ);
	perror("port-bridge: supermachine-agent");
	return 127;
}
