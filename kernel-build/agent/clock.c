// SPDX-License-Identifier: Apache-2.0
/* The host's time, for which RESTORED asks its caller by CLOCK_ASK. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#define CLOCK_MS 30000 /* for all questions together */
#define QUESTIONS 64
#define GOOD_NS 2000000 /* an answer within this ends the questions, */
#define FIRST_QUESTIONS 16 /* and after so many one within this: */
#define FAIR_NS 15000000
#define SECOND_NS 1000000000ULL
#define ANSWER_SIZE 12

static uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * SECOND_NS + now.tv_nsec;
}

/* Exactly `size` bytes; 0 or an errno. */
static int receive_until(int fd, uint64_t end_ns, uint8_t *to, size_t size)
{
	while (size) {
		struct pollfd file = { fd, POLLIN, 0 };
		uint64_t now = monotonic_ns();
		ssize_t got;

		if (now >= end_ns || poll(&file, 1, (end_ns - now) / 1000000 + 1) <= 0)
			return ETIMEDOUT;
		got = recv(fd, to, size, MSG_DONTWAIT);
		if (got == 0)
			return ECONNRESET;
		if (got < 0 && errno != EAGAIN && errno != EINTR)
			return errno;
		to += got > 0 ? got : 0;
		size -= got > 0 ? got : 0;
	}
	return 0;
}

/* The header of the next frame that is neither PING, which is answered, nor PONG; 0 or an errno. */
static int receive_header(int fd, uint64_t end_ns, uint8_t header[FRAME_HEADER])
{
	for (;;) {
		int error = receive_until(fd, end_ns, header, FRAME_HEADER);
		uint32_t size = get_u32(header), kind = get_u32(header + 4);

		if (error || size || (kind != FRAME_PING && kind != FRAME_PONG))
			return error;
		if (kind == FRAME_PING)
			send_frame(fd, FRAME_PONG, NULL, 0);
	}
}

/* The host's answer to one question; 0 or an errno. */
static int ask_once(int fd, uint32_t question, uint64_t end_ns, uint64_t *host_ns)
{
	uint8_t ask[FRAME_HEADER + 4], header[FRAME_HEADER] = { 0 }, answer[ANSWER_SIZE];
	int error;

	put_u32(ask, 4);
	put_u32(ask + 4, FRAME_CLOCK_ASK);
	put_u32(ask + 8, question);
	if (send(fd, ask, sizeof ask, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof ask)
		return errno;
	error = receive_header(fd, end_ns, header);
	if (error)
		return error;
	if (get_u32(header) != ANSWER_SIZE || get_u32(header + 4) != FRAME_CLOCK)
		return EPROTO;
	error = receive_until(fd, end_ns, answer, sizeof answer);
	if (error)
		return error;
	*host_ns = get_u64(answer + 4);
	return get_u32(answer) == question ? 0 : EPROTO;
}

/* The answer that came soonest is the best: the host's clock was read at some time on its way. */
int ask_clock(int fd, uint64_t *offset_ns, uint64_t *uncertainty_ns)
{
	uint64_t end = monotonic_ns() + CLOCK_MS * 1000000ULL, best = UINT64_MAX, host = 0;

	for (uint32_t question = 0; question < QUESTIONS; question++) {
		uint64_t before = monotonic_ns(), after;
		int error = ask_once(fd, question, end, &host);

		after = monotonic_ns();
		if (error == ETIMEDOUT && best != UINT64_MAX)
			break;
		if (error)
			return error;
		if (after - before < best) {
			best = after - before;
			*offset_ns = host + best / 2 - after;
		}
		if (best <= (question < FIRST_QUESTIONS ? GOOD_NS : FAIR_NS))
			break;
	}
	*uncertainty_ns = best / 2;
	return 0;
}
