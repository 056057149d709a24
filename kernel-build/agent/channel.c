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
#define LAST_ROOM (FRAME_HEADER + ERROR_LIMIT) /* bytes kept for the last frame, ERROR or DONE */

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
	channel->since_ms = now_ms();
	channel->pings = 0;
}

bool channel_next(struct channel *channel, struct frame *frame)
{
	for (;;) {
		enum parsed parsed = frame_parse(channel->in, channel->in_size, DATA_LIMIT, frame);

		channel->broken = parsed == PARSED_WRONGLY;
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
	size_t used = channel->out_size + FRAME_HEADER + LAST_ROOM;

	return used < sizeof channel->out ? sizeof channel->out - used : 0;
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

/* How many bytes a character of UTF-8 at `text` has; 0: there is none, or one that a line does not have. */
static int character(const char *text)
{
	const unsigned char *byte = (const unsigned char *)text;
	int size = *byte < 0x80 ? 1 : *byte >= 0xf0 ? 4 : *byte >= 0xe0 ? 3 : 2;
	uint32_t code = size == 1 ? *byte : *byte & (0x7f >> size);
	const uint32_t least[] = { 0, 0x20, 0xa0, 0x800,
				   0x10000 }; /* shorter forms exist, or it is a control character */

	for (int i = 1; i < size; i++) {
		if ((byte[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (byte[i] & 0x3f);
	}
	if ((*byte >= 0x80 && *byte < 0xc0) || *byte >= 0xf8 || code < least[size] || code == 0x7f ||
	    (code >= 0xd800 && code < 0xe000) || code > 0x10ffff)
		return 0;
	return code == 0x2028 || code == 0x2029 ? 0 : size; /* Unicode's own ends of lines */
}

static void make_line(char *text)
{
	while (*text) {
		int size = character(text);

		if (!size)
			*text = '?';
		text += size ? size : 1;
	}
}

/* The payload of FRAME_ERROR: u32 errno and a line of UTF-8 without an end; a path can have any bytes. */
static size_t error_payload(uint8_t payload[ERROR_LIMIT], int error, const char *text)
{
	put_u32(payload, error);
	snprintf((char *)payload + 4, ERROR_LIMIT - 4, "%s", text);
	make_line((char *)payload + 4);
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
	long silent = now_ms() - channel->since_ms;

	if (!(channel->caller.capabilities & CAN_PING))
		return -1;
	if (silent < PING_MS)
		return PING_MS - silent;
	/*
	 * Silence alone says little: a guest that did not run for minutes heard nobody. So each question
	 * has its time, and what came meanwhile is looked at before the caller is taken for gone.
	 */
	channel_receive(channel);
	if (now_ms() - channel->since_ms < PING_MS)
		return 0;
	if (channel->pings == PINGS) {
		channel->ended = true;
		return 0;
	}
	if (channel_room(channel))
		channel_put(channel, FRAME_PING, NULL, 0);
	channel->pings++;
	channel->since_ms = now_ms();
	return 0; /* it waits to be sent */
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
