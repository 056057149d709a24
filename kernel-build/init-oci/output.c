// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FINISH_WAIT_MS 1000 /* without progress */
#define LAST_ROUNDS 64 /* more than a pipe holds */
#define REST_WAIT_MS 50 /* for the end of a line */

struct stream {
	int fd; /* to read from; -1: has ended, or never was */
	const char *prefix; /* "": none */
	size_t prefix_left; /* bytes of it that are still to be written */
	size_t at, end, size; /* of data: what has been written, what is to be written now, what has been read */
	int64_t rest_due; /* when what has no line break yet is written without it */
	char data[4096];
};

static struct stream streams[STREAMS] = { { .fd = -1 }, { .fd = -1 } };
static struct stream *unfinished; /* whose line on the console has no end yet */

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

/* Either there are bytes to write, or to read. */
int stream_to_poll(int index, short *events)
{
	const struct stream *stream = &streams[index];

	*events = stream->at < stream->end ? POLLOUT : POLLIN;
	return stream->at < stream->end ? console_descriptor() : stream->fd;
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
		set_unfinished(NULL); /* a line of our own came between */
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
	while (stream->at < stream->end) {
		const char *data = stream->data + stream->at;
		size_t size = stream->end - stream->at;
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

static void read_stream(struct stream *stream)
{
	ssize_t got;

	memmove(stream->data, stream->data + stream->at, stream->size - stream->at);
	stream->size -= stream->at;
	stream->at = 0;
	got = read(stream->fd, stream->data + stream->size, sizeof stream->data - stream->size);
	stream->end = stream->size;
	if (got <= 0) {
		close(stream->fd);
		stream->fd = -1;
		return;
	}
	stream->size += got;
	stream->end = stream->size;
	/* with a prefix, what comes of another stream must not get between the parts of a line, unless it is long */
	if (*stream->prefix) {
		const char *last = memrchr(stream->data, '\n', stream->size);

		if (last || stream->size < sizeof stream->data)
			stream->end = last ? (size_t)(last - stream->data) + 1 : 0;
		stream->rest_due = monotonic_ms() + REST_WAIT_MS;
	}
}

void move_stream(int index)
{
	struct stream *stream = &streams[index];

	if (stream->at == stream->end)
		read_stream(stream);
	write_stream(stream);
}

/* Whoever writes half of a line and then waits is shown it. Returns for how long nothing is due; -1: for ever. */
int flush_rests(int64_t now)
{
	int wait = -1;

	for (int i = 0; i < STREAMS; i++) {
		struct stream *stream = &streams[i];

		if (stream->end == stream->size)
			continue;
		if (stream->rest_due <= now) {
			stream->end = stream->size;
			write_stream(stream);
		} else if (wait < 0 || stream->rest_due - now < wait) {
			wait = (int)(stream->rest_due - now);
		}
	}
	return wait;
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
			break;
		ready = poll(wanted, STREAMS, wait ? FINISH_WAIT_MS : 0);
		if (ready <= 0)
			break;
		for (int i = 0; i < STREAMS; i++)
			if (wanted[i].fd >= 0 && wanted[i].revents)
				move_stream(i);
	}
	flush_rests(INT64_MAX);
}
