// SPDX-License-Identifier: Apache-2.0
/* Frames over a socket, never waiting for it: whoever waits does so in poll, for all files at once. */
#include "agent.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

uint32_t get_u32(const uint8_t *from)
{
	return from[0] | from[1] << 8 | from[2] << 16 | (uint32_t)from[3] << 24;
}

void put_u32(uint8_t *to, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		to[i] = value >> (8 * i);
}

static bool would_block(void)
{
	return errno == EAGAIN || errno == EINTR;
}

bool channel_receive(struct channel *channel)
{
	ssize_t got = recv(channel->fd, channel->in + channel->in_size,
			   sizeof channel->in - channel->in_size, MSG_DONTWAIT);

	if (got < 0)
		return would_block();
	if (!got)
		return false;
	channel->in_size += got;
	return channel_valid(channel);
}

/* A frame within the limit always fits, so what is too long shows in its header. */
bool channel_valid(const struct channel *channel)
{
	return channel->in_size < FRAME_HEADER || get_u32(channel->in) <= FRAME_LIMIT;
}

bool channel_next(const struct channel *channel, struct frame *frame)
{
	if (channel->in_size < FRAME_HEADER)
		return false;
	frame->size = get_u32(channel->in);
	frame->kind = get_u32(channel->in + 4);
	frame->data = channel->in + FRAME_HEADER;
	return channel->in_size - FRAME_HEADER >= frame->size;
}

void channel_drop(struct channel *channel, const struct frame *frame)
{
	size_t used = FRAME_HEADER + frame->size;

	channel->in_size -= used;
	memmove(channel->in, channel->in + used, channel->in_size);
}

bool channel_idle(const struct channel *channel)
{
	return channel->out_sent == channel->out_size;
}

/* Only on an idle channel, and never more than the buffer holds. */
void channel_put(struct channel *channel, uint32_t kind, const void *data, uint32_t size)
{
	put_u32(channel->out, size);
	put_u32(channel->out + 4, kind);
	if (size)
		memmove(channel->out + FRAME_HEADER, data, size);
	channel->out_size = FRAME_HEADER + size;
	channel->out_sent = 0;
}

void channel_clear(struct channel *channel)
{
	channel->out_size = channel->out_sent = 0;
}

bool channel_send(struct channel *channel)
{
	while (!channel_idle(channel)) {
		ssize_t sent = send(channel->fd, channel->out + channel->out_sent,
				    channel->out_size - channel->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent < 0)
			return would_block();
		channel->out_sent += sent;
	}
	return true;
}
