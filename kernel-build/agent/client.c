// SPDX-License-Identifier: Apache-2.0
/* The calling side of the agent's protocol; POSIX alone, so that it compiles for hosts too. */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define IN_SIZE (FRAME_HEADER + DATA_LIMIT)
#define OUT_SIZE (FRAME_HEADER + DATA_LIMIT + 4096)
#define CONTROL_ROOM 256 /* kept for frames that are no stream's */
#define CLOSE_MS 30000
#ifndef MSG_NOSIGNAL /* macOS: ignore SIGPIPE */
#define MSG_NOSIGNAL 0
#endif
#define PIECE 4096 /* what a pipe takes without waiting once poll() says that it takes something */

/* Output that has come and is not yet written: never more than the window that HELLO granted. */
struct output {
	uint32_t stream, credit_due;
	int fd;
	size_t at, size;
	uint8_t data[AGENT_WINDOW];
};

struct call {
	int socket, in, frames;
	uint32_t kind, in_kind, in_end;
	struct agent_answer *answer;
	bool greeted, done, failed;
	uint64_t credit; /* bytes of input that the agent takes */
	size_t in_size, out_size;
	struct output outputs[2];
	uint8_t from_agent[IN_SIZE], to_agent[OUT_SIZE];
};

static void fail(struct call *call, uint32_t error, const char *text, size_t length)
{
	snprintf(call->answer->text, sizeof call->answer->text, "%.*s", (int)length, text);
	call->answer->error = error;
	call->failed = true;
}

static void fail_here(struct call *call, const char *text)
{
	fail(call, 0, text, strlen(text));
}

static bool would_wait(ssize_t result)
{
	return result < 0 && (errno == EAGAIN || errno == EINTR);
}

static size_t room(const struct call *call)
{
	size_t used = call->out_size + FRAME_HEADER + CONTROL_ROOM;

	return used < OUT_SIZE ? OUT_SIZE - used : 0;
}

static void put_frame(struct call *call, uint32_t kind, const uint8_t *data, size_t size)
{
	uint8_t *to = call->to_agent + call->out_size;

	if (OUT_SIZE - call->out_size < FRAME_HEADER + size) {
		fail_here(call, "the agent does not take what it asks for");
		return;
	}
	put_u32(to, size);
	put_u32(to + 4, kind);
	if (size)
		memmove(to + FRAME_HEADER, data, size);
	call->out_size += FRAME_HEADER + size;
}

static void send_some(struct call *call)
{
	ssize_t sent = send(call->socket, call->to_agent, call->out_size, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (would_wait(sent))
		return;
	/* An agent that takes no more may still have sent its last frames: the failure shows when we read. */
	call->out_size = sent < 0 ? 0 : call->out_size - sent;
	if (sent > 0)
		memmove(call->to_agent, call->to_agent + sent, call->out_size);
}

static void receive_some(struct call *call)
{
	ssize_t got = recv(call->socket, call->from_agent + call->in_size, IN_SIZE - call->in_size, MSG_DONTWAIT);

	if (got > 0)
		call->in_size += got;
	else if (!got)
		fail_here(call, call->greeted ? "the agent closed the connection"
					      : "the agent closed the connection; it may be of protocol version 1");
	else if (!would_wait(got))
		fail_here(call, strerror(errno));
}

static bool keep(struct output *output, const uint8_t *data, size_t size)
{
	if (size > AGENT_WINDOW - output->size)
		return false;
	memmove(output->data, output->data + output->at, output->size);
	memcpy(output->data + output->size, data, size);
	output->at = 0;
	output->size += size;
	return true;
}

static void answer_clock(struct call *call, const uint8_t *question)
{
	struct timespec now;
	uint8_t payload[12];

	clock_gettime(CLOCK_REALTIME, &now);
	memcpy(payload, question, 4);
	put_u64(payload + 4, now.tv_sec * 1000000000ULL + now.tv_nsec);
	put_frame(call, FRAME_CLOCK, payload, sizeof payload);
}

static bool take_hello(struct call *call, uint32_t kind, const uint8_t *data, uint32_t size)
{
	if (kind != FRAME_HELLO || size < HELLO_SIZE || get_u32(data) < AGENT_PROTOCOL ||
	    get_u32(data + 4) > AGENT_PROTOCOL)
		return false;
	call->greeted = true;
	call->answer->capabilities = get_u64(data + 8);
	call->credit = get_u32(data + 16);
	return true;
}

/* False: the frame is none that may come here. */
static bool take_frame(struct call *call, uint32_t kind, const uint8_t *data, uint32_t size)
{
	struct agent_answer *answer = call->answer;
	uint32_t *state = (uint32_t *)&answer->state;

	if (!call->greeted)
		return take_hello(call, kind, data, size);
	call->done = kind == FRAME_EXIT || kind == FRAME_DONE || kind == FRAME_STATE;
	if (kind == FRAME_STDOUT || kind == FRAME_DATA)
		return keep(&call->outputs[0], data, size);
	if (kind == FRAME_STDERR)
		return keep(&call->outputs[1], data, size);
	if (kind == FRAME_CREDIT && size == 8)
		call->credit += get_u32(data + 4);
	else if (kind == FRAME_PING)
		put_frame(call, FRAME_PONG, NULL, 0);
	else if (kind == FRAME_CLOCK_ASK && size == 4)
		answer_clock(call, data);
	else if (kind == FRAME_ERROR && size >= 4)
		fail(call, get_u32(data), (const char *)data + 4, size - 4);
	else if (kind == FRAME_EXIT)
		for (size_t i = 0; i + EXIT_RECORD <= size && answer->outcome_count < COMMANDS_LIMIT; i += EXIT_RECORD)
			outcome_parse(data + i, &answer->outcomes[answer->outcome_count++]);
	else if (kind == FRAME_STATE)
		for (size_t i = 0; i < sizeof answer->state / 4 && 4 * i + 4 <= size; i++)
			state[i] = get_u32(data + 4 * i);
	else if (kind == FRAME_DONE && size >= 8)
		answer->number = get_u64(data);
	else if (kind == FRAME_FILE && size >= 12)
		answer->mode = get_u32(data), answer->uid = get_u32(data + 4), answer->gid = get_u32(data + 8);
	else
		return kind == FRAME_PONG || kind == FRAME_DONE;
	return true;
}

static void take_frames(struct call *call)
{
	size_t used = 0;

	while (!call->failed && !call->done && call->in_size - used >= FRAME_HEADER) {
		const uint8_t *from = call->from_agent + used;
		uint32_t size = get_u32(from);

		if (size <= DATA_LIMIT && call->in_size - used - FRAME_HEADER < size)
			break;
		if (size > DATA_LIMIT || !take_frame(call, get_u32(from + 4), from + FRAME_HEADER, size))
			fail_here(call, "the agent sent what is not of the protocol, or not of its version 2");
		used += FRAME_HEADER + (size_t)size;
	}
	if (!call->failed) {
		call->in_size -= used;
		memmove(call->from_agent, call->from_agent + used, call->in_size);
	}
}

/* In pieces that poll() vouches for. A reader of ours that has gone is no reason to stop the command. */
static void write_output(struct call *call, struct output *output)
{
	struct pollfd file = { output->fd, POLLOUT, 0 };
	while (output->size && (output->fd < 0 || poll(&file, 1, 0) > 0)) {
		size_t size = output->size < PIECE ? output->size : PIECE;
		ssize_t put;

		put = output->fd < 0 ? (ssize_t)size : write(output->fd, output->data + output->at, size);
		if (would_wait(put))
			break;
		if (put <= 0 && call->kind == FRAME_READ)
			fail_here(call, strerror(errno));
		if (put <= 0) {
			output->fd = -1;
			put = size;
		}
		output->at += put;
		output->size -= put;
		output->credit_due += put;
	}
	if (output->credit_due >= AGENT_WINDOW / 4 && room(call) && !call->done) {
		uint8_t credit[8];

		put_u32(credit, call->kind == FRAME_READ ? FRAME_DATA : output->stream);
		put_u32(credit + 4, output->credit_due);
		put_frame(call, FRAME_CREDIT, credit, sizeof credit);
		output->credit_due = 0;
	}
}

static bool may_read(const struct call *call)
{
	return call->in >= 0 && call->credit && room(call);
}

static void read_input(struct call *call)
{
	uint8_t *to = call->to_agent + call->out_size + FRAME_HEADER;
	size_t size = room(call) < DATA_LIMIT ? room(call) : DATA_LIMIT;
	ssize_t got = read(call->in, to, size < call->credit ? size : call->credit);

	if (would_wait(got))
		return;
	if (got < 0 && call->kind == FRAME_WRITE) {
		fail_here(call, strerror(errno)); /* a part of a file is none */
	} else if (got <= 0) {
		put_frame(call, call->in_end, NULL, 0);
		call->in = -1;
	} else {
		put_frame(call, call->in_kind, to, got);
		call->credit -= got;
	}
}

static void read_frames(struct call *call)
{
	ssize_t got = read(call->frames, call->to_agent + call->out_size, CONTROL_ROOM);

	call->out_size += got > 0 ? got : 0;
	if (got <= 0 && !would_wait(got))
		call->frames = -1;
}

static void send_request(struct call *call, const struct agent_request *request)
{
	uint8_t hello[HELLO_SIZE] = { 0 };
	size_t size = request ? request->size : 0, sent = 0;
	struct pollfd file = { call->socket, POLLOUT, 0 };

	put_u32(hello, AGENT_PROTOCOL);
	put_u32(hello + 4, AGENT_PROTOCOL);
	put_u32(hello + 8, CAN_PING);
	put_u32(hello + 16, AGENT_WINDOW);
	put_frame(call, FRAME_HELLO, hello, sizeof hello);
	put_u32(call->to_agent + call->out_size, size);
	put_u32(call->to_agent + call->out_size + 4, call->kind);
	call->out_size += FRAME_HEADER;
	while (call->out_size || sent < size) {
		ssize_t put = 0;

		send_some(call);
		if (!call->out_size && sent < size)
			put = send(call->socket, request->data + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (put < 0 && !would_wait(put))
			return; /* the agent may have said why */
		sent += put > 0 ? put : 0;
		if (sent < size)
			poll(&file, 1, -1);
	}
	if (call->in < 0 && call->in_kind)
		put_frame(call, call->in_end, NULL, 0);
}

static void run(struct call *call)
{
	while (!call->failed && (!call->done || call->outputs[0].size || call->outputs[1].size)) {
		struct pollfd files[] = {
			{ call->done ? -1 : call->socket, POLLIN | (call->out_size ? POLLOUT : 0), 0 },
			{ may_read(call) ? call->in : -1, POLLIN, 0 },
			{ room(call) ? call->frames : -1, POLLIN, 0 },
			{ call->outputs[0].size ? call->outputs[0].fd : -1, POLLOUT, 0 },
			{ call->outputs[1].size ? call->outputs[1].fd : -1, POLLOUT, 0 },
		};

		poll(files, 5, -1);
		if (files[0].revents & ~POLLOUT)
			receive_some(call);
		take_frames(call);
		if (files[1].revents && !call->done && may_read(call))
			read_input(call);
		if (files[2].revents && !call->done && room(call))
			read_frames(call);
		write_output(call, &call->outputs[0]);
		write_output(call, &call->outputs[1]);
		if (!call->done && call->out_size)
			send_some(call);
	}
}

bool agent_call(int socket, uint32_t kind, const struct agent_request *request, const struct agent_files *files,
		struct agent_answer *answer)
{
	struct call *call = calloc(1, sizeof *call);
	bool good = false;

	*answer = (struct agent_answer){ .text = "the request is over 1 MiB, or there is no memory" };
	if (call && !(request && request->failed)) {
		call->socket = socket;
		call->kind = kind;
		call->answer = answer;
		call->in_kind = kind == FRAME_EXEC ? FRAME_STDIN : kind == FRAME_WRITE ? FRAME_DATA : 0;
		call->in_end = call->in_kind + 1;
		call->in = files && call->in_kind ? files->in : -1;
		call->frames = files ? files->frames : -1;
		call->outputs[0] = (struct output){ .stream = FRAME_STDOUT, .fd = files ? files->out : -1 };
		call->outputs[1] = (struct output){ .stream = FRAME_STDERR, .fd = files ? files->err : -1 };
		send_request(call, request);
		run(call);
		good = !call->failed;
	}
	free(call);
	return good;
}

void agent_close(int socket)
{
	struct pollfd file = { socket, POLLIN, 0 };
	uint8_t rest[4096];

	shutdown(socket, SHUT_WR);
	while (poll(&file, 1, CLOSE_MS) > 0 && read(socket, rest, sizeof rest) > 0)
		;
	close(socket);
}
