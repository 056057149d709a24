// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FINISH_WAIT_MS	1000	/* without progress */
#define LAST_ROUNDS	64	/* more than a pipe holds */

struct stream {
	int fd;			/* to read from; -1: has ended, or never was */
	const char *prefix;	/* "": none */
	size_t prefix_left;	/* bytes of it that are still to be written */
	size_t at, size;	/* of data: what has been written, what has been read */
	char data[4096];
};

static struct stream streams[STREAMS] = { { .fd = -1 }, { .fd = -1 } };
static struct stream *unfinished;	/* whose line on the console has no end yet */

int open_stream(int index, const char *prefix)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC))
		return -1;
	streams[index].fd = ends[0];
	streams[index].prefix = prefix ? prefix : "";
	streams[index].prefix_left = strlen(streams[index].prefix);
	return ends[1];
}

/* Either there are bytes to read, or those that were read wait for the console. */
int stream_to_poll(int index, short *events)
{
	const struct stream *stream = &streams[index];

	*events = stream->at < stream->size ? POLLOUT : POLLIN;
	if (stream->fd < 0)
		return -1;
	return stream->at < stream->size ? console_descriptor() : stream->fd;
}

static void set_unfinished(struct stream *stream)
{
	if (unfinished)
		unfinished->prefix_left = strlen(unfinished->prefix);
	unfinished = stream;
	set_within_line(stream);
}

/* With a prefix, a line of the console holds the bytes of one stream only. */
static bool begin_line(struct stream *stream)
{
	if (unfinished && !is_within_line())
		set_unfinished(NULL);	/* a line of our own came between */
	if (unfinished && unfinished != stream && (*stream->prefix || *unfinished->prefix)) {
		if (!console_write("\n", 1))
			return false;
		set_unfinished(NULL);
	}
	while (stream->prefix_left) {
		const char *rest = stream->prefix + strlen(stream->prefix) - stream->prefix_left;
		int put = console_write(rest, stream->prefix_left);

		if (!put)
			return false;
		if (unfinished != stream)
			set_unfinished(stream);
		stream->prefix_left -= put;
	}
	return true;
}

static void write_stream(struct stream *stream)
{
	while (stream->at < stream->size) {
		const char *data = stream->data + stream->at;
		size_t size = stream->size - stream->at;
		const char *end = *stream->prefix ? memchr(data, '\n', size) : NULL;
		int put;

		if (!begin_line(stream))
			return;
		put = console_write(data, end ? (size_t)(end - data) + 1 : size);
		if (!put)
			return;
		stream->at += put;
		if (data[put - 1] != '\n') {
			if (unfinished != stream)
				set_unfinished(stream);
		} else {
			unfinished = stream;
			set_unfinished(NULL);
		}
	}
}

void move_stream(int index)
{
	struct stream *stream = &streams[index];

	if (stream->at == stream->size) {
		ssize_t got = read(stream->fd, stream->data, sizeof stream->data);

		if (got < 0 && errno == EINTR)
			return;
		if (got <= 0) {
			close(stream->fd);
			stream->fd = -1;
			return;
		}
		stream->at = 0;
		stream->size = got;
	}
	write_stream(stream);
}

void finish_streams(bool wait)
{
	/* somebody who never stops writing is left to the loop of supervise() */
	for (int rounds = 0; wait || rounds < LAST_ROUNDS; rounds++) {
		struct pollfd wanted[STREAMS];
		int ready;

		for (int i = 0; i < STREAMS; i++)
			wanted[i].fd = stream_to_poll(i, &wanted[i].events);
		if (wanted[0].fd < 0 && wanted[1].fd < 0)
			return;
		ready = poll(wanted, STREAMS, wait ? FINISH_WAIT_MS : 0);
		if (ready <= 0)
			return;
		for (int i = 0; i < STREAMS; i++)
			if (wanted[i].fd >= 0 && wanted[i].revents)
				move_stream(i);
	}
}
