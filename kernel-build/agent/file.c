// SPDX-License-Identifier: Apache-2.0
/* READ and WRITE: a file, streamed; whoever is told DONE has all of it. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void put_failure(struct channel *channel, int error, const char *path)
{
	char text[512];

	snprintf(text, sizeof text, "%.400s: %s", path, strerror(error));
	channel_put_error(channel, error, text);
}

static void put_done(struct channel *channel, uint64_t size)
{
	uint8_t payload[8];

	put_u64(payload, size);
	channel_put(channel, FRAME_DONE, payload, sizeof payload);
}

/* Sends what waits and takes what has come. */
static void move(struct channel *channel, int signals)
{
	struct pollfd files[] = {
		{ channel->fd, POLLIN | (channel_idle(channel) ? 0 : POLLOUT), 0 },
		{ signals, POLLIN, 0 },
	};

	channel_send(channel);
	files[0].events = POLLIN | (channel_idle(channel) ? 0 : POLLOUT);
	if (channel->ended)
		return;
	poll(files, 2, channel_check_alive(channel));
	if (files[1].revents)
		worker_take_signals(signals);
	if (files[0].revents & ~POLLOUT)
		channel_receive(channel);
}

static int open_to_read(const char *path, struct stat *status)
{
	/* Without O_NONBLOCK a FIFO would hold us here. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0 || fstat(fd, status) || S_ISREG(status->st_mode))
		return fd;
	close(fd);
	errno = S_ISDIR(status->st_mode) ? EISDIR : EINVAL;
	return -1;
}

static void put_file_frame(struct channel *channel, const struct stat *status)
{
	uint8_t payload[20];

	put_u32(payload, status->st_mode & 07777);
	put_u32(payload + 4, status->st_uid);
	put_u32(payload + 8, status->st_gid);
	put_u64(payload + 12, status->st_size);
	channel_put(channel, FRAME_FILE, payload, sizeof payload);
}

static bool take_credit(struct channel *channel, uint64_t *credit)
{
	struct frame frame;

	while (channel_next(channel, &frame)) {
		if (frame.kind != FRAME_CREDIT || frame.size != 8 || get_u32(frame.data) != FRAME_DATA)
			return false;
		*credit += get_u32(frame.data + 4);
		channel_drop(channel, &frame);
	}
	return !channel->broken;
}

void serve_read(struct channel *channel, const struct request *request)
{
	uint64_t credit = channel->caller.window, sent = 0;
	int signals = worker_signals();
	int error = 0;
	bool wrong = false;
	struct stat status;
	ssize_t got = 1;
	int fd = open_to_read(request->path, &status);

	if (fd < 0) {
		put_failure(channel, errno, request->path);
		return;
	}
	put_file_frame(channel, &status);
	while (got > 0 && !wrong && !channel->ended && !worker_stopped) {
		uint8_t *data = channel_space(channel);
		size_t room = channel_room(channel);

		room = room > CONTROL_ROOM ? room - CONTROL_ROOM : 0;
		if (room > DATA_LIMIT)
			room = DATA_LIMIT;
		if (room > credit)
			room = credit;
		if (room) {
			got = read(fd, data, room);
			error = errno;
			if (got < 0 && error == EINTR)
				got = 1;
			else if (got > 0)
				channel_put(channel, FRAME_DATA, data, got);
			credit -= got > 0 ? got : 0;
			sent += got > 0 ? got : 0;
			channel_send(channel);
		}
		if (got > 0 && (!credit || channel_room(channel) <= CONTROL_ROOM))
			move(channel, signals);
		else
			channel_receive(channel);
		wrong = !take_credit(channel, &credit);
	}
	if (wrong)
		channel_put_error(channel, EPROTO, "expected CREDIT for DATA");
	else if (got < 0)
		put_failure(channel, error, request->path);
	else if (!got)
		put_done(channel, sent);
	close(fd);
	while (!channel_idle(channel) && !wrong && !channel->ended && !worker_stopped) {
		move(channel, signals);
		wrong = !take_credit(channel, &credit);
	}
}

enum { TAKEN, TAKEN_ALL, TAKEN_WRONGLY };

static int take_data(struct channel *channel, int fd, uint64_t *size, uint64_t *due, int *error)
{
	struct frame frame;

	while (channel_next(channel, &frame)) {
		uint32_t kind = frame.kind, length = frame.size;

		if (kind == FRAME_DATA && length <= AGENT_WINDOW - *due && !*error)
			*error = write_all(fd, frame.data, length);
		else if (kind != FRAME_DATA_END || length)
			return TAKEN_WRONGLY;
		channel_drop(channel, &frame);
		if (kind == FRAME_DATA_END || *error)
			return TAKEN_ALL;
		*size += length;
		*due += length;
	}
	return channel->broken ? TAKEN_WRONGLY : TAKEN;
}

void serve_write(struct channel *channel, const struct request *request)
{
	uint64_t size = 0, due = 0; /* written; and of it, not yet granted again */
	int signals = worker_signals(), taken = TAKEN, error = 0;
	char temporary[4096];
	int fd = open_beside(request->path, temporary, sizeof temporary);

	if (fd < 0) {
		put_failure(channel, errno, request->path);
		return;
	}
	while (taken == TAKEN && !channel->ended && !worker_stopped) {
		move(channel, signals);
		taken = take_data(channel, fd, &size, &due, &error);
		if (taken == TAKEN && due >= DATA_LIMIT && channel_room(channel) > CONTROL_ROOM) {
			channel_put_credit(channel, FRAME_DATA, due);
			due = 0;
		}
	}
	if (taken == TAKEN_ALL && !error) {
		error = finish_beside(fd, temporary, request->path, request->mode, request->uid, request->gid);
		if (!error)
			put_done(channel, size);
	} else {
		close(fd);
		unlink(temporary);
	}
	if (taken == TAKEN_WRONGLY)
		channel_put_error(channel, EPROTO, "expected DATA, of which so much was granted, or DATA_END");
	else if (error)
		put_failure(channel, error, request->path);
}
