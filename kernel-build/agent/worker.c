// SPDX-License-Identifier: Apache-2.0
/*
 * One caller of EXEC, READ or WRITE. It has a process of its own, so that what goes wrong
 * with one caller stays with that caller. Its HELLO and the header of its request have come.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

bool worker_stopped;

int worker_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_SETMASK, &set, NULL);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

bool worker_take_signals(int signals)
{
	struct signalfd_siginfo info;
	bool child = false;

	while (read(signals, &info, sizeof info) > 0) {
		child |= info.ssi_signo == SIGCHLD;
		worker_stopped |= info.ssi_signo == SIGTERM;
	}
	return child;
}

/* While there is nothing to clean up, RESTORED need not wait for the caller. */
static void end_by_signal(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* Exactly `size` bytes, as long as the caller is not silent for too long. */
static bool receive_all(int fd, uint8_t *to, size_t size)
{
	while (size) {
		struct pollfd file = { fd, POLLIN, 0 };
		ssize_t got;

		if (poll(&file, 1, SILENCE_MS) <= 0)
			return false;
		got = recv(fd, to, size, MSG_DONTWAIT);
		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
			return false;
		if (got > 0) {
			to += got;
			size -= got;
		}
	}
	return true;
}

/* The request's frame, in memory that stays; NULL: it did not come. */
static uint8_t *receive_request(struct channel *channel, struct frame *frame)
{
	uint8_t opening[FRAME_HEADER + HELLO_LIMIT + FRAME_HEADER], *request;
	struct frame first;
	ssize_t peeked = recv(channel->fd, opening, sizeof opening, MSG_PEEK | MSG_DONTWAIT);
	size_t at;

	if (peeked < 0 || opening_parse(opening, peeked, &channel->caller, &first, &at) != PARSED)
		return NULL;
	request = malloc(FRAME_HEADER + (size_t)first.size);
	if (!request || !receive_all(channel->fd, opening, at) ||
	    !receive_all(channel->fd, request, FRAME_HEADER + (size_t)first.size) ||
	    frame_parse(request, FRAME_HEADER + (size_t)first.size, FRAME_LIMIT, frame) != PARSED) {
		free(request);
		return NULL;
	}
	return request;
}

void serve_caller(int fd)
{
	struct channel *channel = calloc(1, sizeof *channel);
	struct request request;
	struct frame frame;
	const char *wrong;
	uint8_t *bytes;

	if (!channel)
		return;
	channel->fd = fd;
	end_by_signal(); /* until serve_...() takes its signals */
	bytes = receive_request(channel, &frame);
	if (!bytes) {
		free(channel);
		return;
	}
	channel->since_ms = now_ms();
	wrong = request_parse(&frame, &request);
	if (wrong)
		channel_put_error(channel, EINVAL, wrong);
	else if (frame.kind == FRAME_EXEC)
		serve_exec(channel, &request);
	else if (frame.kind == FRAME_READ)
		serve_read(channel, &request);
	else
		serve_write(channel, &request);
	if (!worker_stopped) {
		end_by_signal();
		channel_goodbye(channel);
	}
	if (!wrong)
		request_free(&request);
	free(bytes);
	free(channel);
}
