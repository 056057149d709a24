// SPDX-License-Identifier: Apache-2.0
/* Frames over a socket, never waiting for it: whoever waits does so in poll, for all files at once. */
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PACKET_LIMIT (28 << 10) /* bytes; there are hosts that lose what a vsock packet has in a second descriptor */
#define ERROR_LIMIT 512 /* bytes of payload in FRAME_ERROR, and in a frame of send_frame() */

static bool would_block(void)
{
	return errno == EAGAIN || errno == EINTR;
}

void channel_receive(struct channel *channel)
{
	ssize_t got =
		recv(channel->fd, channel->in + channel->in_size, sizeof channel->in - channel->in_size, MSG_DONTWAIT);

	if (got < 0 && would_block())
		return;
	if (got <= 0) {
		channel->ended = true;
		return;
	}
	channel->in_size += got;
	channel->heard_ms = now_ms();
	channel->asked_ms = 0;
}

bool channel_next(struct channel *channel, struct frame *frame)
{
	for (;;) {
		enum parsed parsed = frame_parse(channel->in, channel->in_size, DATA_LIMIT, frame);

		if (parsed == PARSED_WRONGLY)
			channel->ended = true;
		if (parsed != PARSED || channel->ended)
			return false;
		if (frame->kind == FRAME_PING)
			channel->pong_due = true;
		else if (frame->kind != FRAME_PONG)
			return true;
		channel_drop(channel, frame);
	}
}

void channel_drop(struct channel *channel, const struct frame *frame)
{
	size_t used = FRAME_HEADER + frame->size;

	channel->in_size -= used;
	memmove(channel->in, channel->in + used, channel->in_size);
}

size_t channel_room(const struct channel *channel)
{
	size_t left = sizeof channel->out - channel->out_size;

	return left > FRAME_HEADER ? left - FRAME_HEADER : 0;
}

bool channel_idle(const struct channel *channel)
{
	return channel->out_sent == channel->out_size;
}

/* Where the payload of the next frame will lie: what is read straight to there is not copied. */
uint8_t *channel_space(struct channel *channel)
{
	return channel->out + channel->out_size + FRAME_HEADER;
}

void channel_put(struct channel *channel, uint32_t kind, const void *data, size_t size)
{
	uint8_t *to = channel->out + channel->out_size;

	put_u32(to, size);
	put_u32(to + 4, kind);
	if (size)
		memmove(to + FRAME_HEADER, data, size);
	channel->out_size += FRAME_HEADER + size;
}

void channel_put_credit(struct channel *channel, uint32_t stream, uint32_t bytes)
{
	uint8_t payload[8];

	put_u32(payload, stream);
	put_u32(payload + 4, bytes);
	channel_put(channel, FRAME_CREDIT, payload, sizeof payload);
}

/* The payload of FRAME_ERROR: u32 errno and a line without an end. */
static size_t error_payload(uint8_t payload[ERROR_LIMIT], int error, const char *text)
{
	put_u32(payload, error);
	snprintf((char *)payload + 4, ERROR_LIMIT - 4, "%s", text);
	return 4 + strlen((char *)payload + 4);
}

void channel_put_error(struct channel *channel, int error, const char *text)
{
	uint8_t payload[ERROR_LIMIT];
	size_t size = error_payload(payload, error, text);

	channel_put(channel, FRAME_ERROR, payload, size);
}

void send_frame(int fd, uint32_t kind, const uint8_t *payload, size_t size)
{
	uint8_t frame[FRAME_HEADER + ERROR_LIMIT];

	put_u32(frame, size);
	put_u32(frame + 4, kind);
	if (size)
		memcpy(frame + FRAME_HEADER, payload, size);
	send(fd, frame, FRAME_HEADER + size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void send_error(int fd, int error, const char *text)
{
	uint8_t payload[ERROR_LIMIT];
	size_t size = error_payload(payload, error, text);

	send_frame(fd, FRAME_ERROR, payload, size);
}

void channel_send(struct channel *channel)
{
	if (channel->pong_due && channel_room(channel)) {
		channel_put(channel, FRAME_PONG, NULL, 0);
		channel->pong_due = false;
	}
	while (!channel_idle(channel)) {
		size_t left = channel->out_size - channel->out_sent;
		ssize_t sent = send(channel->fd, channel->out + channel->out_sent,
				    left < PACKET_LIMIT ? left : PACKET_LIMIT, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent < 0) {
			if (!would_block())
				channel->ended = true;
			break;
		}
		channel->out_sent += sent;
	}
	channel->out_size -= channel->out_sent;
	memmove(channel->out, channel->out + channel->out_sent, channel->out_size);
	channel->out_sent = 0;
}

int channel_check_alive(struct channel *channel)
{
	long silent = now_ms() - channel->heard_ms;

	if (!(channel->caller.capabilities & CAN_PING))
		return -1;
	if (silent >= GONE_MS) {
		channel->ended = true;
		return 0;
	}
	if (silent < PING_MS)
		return PING_MS - silent;
	if (!channel->asked_ms && channel_room(channel)) {
		channel_put(channel, FRAME_PING, NULL, 0);
		channel->asked_ms = now_ms();
		return 0; /* it waits to be sent */
	}
	return GONE_MS - silent;
}

/* The caller says when it has read the end: a close before that could overtake it. */
void channel_goodbye(struct channel *channel)
{
	long end = now_ms() + GOODBYE_MS;
	uint8_t rest[4096];

	while (!channel->ended && now_ms() < end) {
		struct pollfd file = { channel->fd, POLLIN | (channel_idle(channel) ? 0 : POLLOUT), 0 };

		ssize_t got = 1;

		channel_send(channel);
		poll(&file, 1, GOODBYE_MS);
		if (file.revents & ~POLLOUT)
			got = recv(channel->fd, rest, sizeof rest, MSG_DONTWAIT);
		if (!got || (got < 0 && !would_block()))
			return;
	}
}
