// SPDX-License-Identifier: Apache-2.0
/* The calling side, within the guest: a command through the agent over vsock loopback. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define AGENT_WAIT_MS	2000	/* for an agent that is just starting */
#define LOWEST_PORT	512
#define OWN_PORTS	512	/* from LOWEST_PORT; the agent's own among them is taken, and passed over */
#define GOODBYE_MS	2000

static struct channel channel;

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

static int connect_agent(void)
{
	const struct sockaddr_vm address = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = AGENT_PORT,
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
			fprintf(stderr, "supermachine-agent: cannot call the agent on vsock port %d: %s\n",
				AGENT_PORT, strerror(error));
			return -1;
		}
		nanosleep(&pause, NULL);
	}
}

/* A reader of ours that has gone is no reason to stop the command. */
static void write_all(int fd, const uint8_t *data, size_t size)
{
	struct pollfd file = { fd, POLLOUT, 0 };	/* whoever gave it to us may have made it non-blocking */

	while (size) {
		ssize_t put = write(fd, data, size);

		if (put > 0) {
			data += put;
			size -= put;
		} else if (errno == EAGAIN) {
			poll(&file, 1, -1);
		} else if (errno != EINTR) {
			return;
		}
	}
}

/* True once FRAME_EXIT has come. */
static bool take_frames(int out, int err, struct outcome *outcome)
{
	struct frame frame;

	while (channel_next(&channel, &frame)) {
		if (frame.kind == FRAME_EXIT && frame.size == 8) {
			outcome->kind = get_u32(frame.data);
			outcome->value = get_u32(frame.data + 4);
			return true;
		}
		if (frame.kind == FRAME_STDOUT)
			write_all(out, frame.data, frame.size);
		else if (frame.kind == FRAME_STDERR)
			write_all(err, frame.data, frame.size);
		channel_drop(&channel, &frame);
	}
	return false;
}

static void send_input(int *in, bool *ended)
{
	static uint8_t data[DATA_LIMIT];
	ssize_t got = read(*in, data, sizeof data);

	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (got <= 0) {
		got = 0;
		*in = -1;
		*ended = true;
	}
	channel_put(&channel, FRAME_STDIN, data, got);
}

/* The agent closes first, so that our port is free for the next call. */
static void say_goodbye(void)
{
	struct pollfd file = { channel.fd, POLLIN, 0 };
	uint8_t rest[4096];

	shutdown(channel.fd, SHUT_WR);
	while (poll(&file, 1, GOODBYE_MS) > 0 && read(channel.fd, rest, sizeof rest) > 0)
		;
	close(channel.fd);
}

/* in: -1 for no input. False: said why on stderr, and there is no outcome. */
bool exec_in_guest(const struct command *command, int in, int out, int err, struct outcome *outcome)
{
	static uint8_t request[FRAME_LIMIT];
	ssize_t size = command_pack(command, request, sizeof request);
	bool in_ended = false;

	if (size < 0) {
		fprintf(stderr, "supermachine-agent: command and environment are over %d bytes\n", FRAME_LIMIT);
		return false;
	}
	channel.in_size = 0;
	channel.fd = connect_agent();
	if (channel.fd < 0)
		return false;
	channel_put(&channel, FRAME_EXEC, request, size);
	while (!take_frames(out, err, outcome)) {
		bool idle = channel_idle(&channel);
		struct pollfd files[] = {
			{ channel.fd, POLLIN | (idle ? 0 : POLLOUT), 0 },
			{ idle ? in : -1, POLLIN, 0 },
		};

		if (idle && !in_ended && in < 0) {
			channel_put(&channel, FRAME_STDIN, NULL, 0);
			in_ended = true;
		} else {
			poll(files, 2, -1);
		}
		if (files[1].revents)
			send_input(&in, &in_ended);
		/* An agent that takes no more may still have sent its last frames. */
		if (!channel_send(&channel)) {
			channel_clear(&channel);
			in = -1;
			in_ended = true;
		}
		if (files[0].revents & ~POLLOUT && !channel_receive(&channel)) {
			fprintf(stderr, "supermachine-agent: the agent closed the connection\n");
			close(channel.fd);
			return false;
		}
	}
	say_goodbye();
	return true;
}
