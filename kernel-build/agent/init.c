// SPDX-License-Identifier: Apache-2.0
/* init-oci, which started the agent with one end of a socket pair: what the workload does, and what it shall do. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define VARIABLE "SUPERMACHINE_INIT"
#define ANSWER_MS 30000 /* it answers at once, unless the host does not let it run */
#define REQUEST_SIZE 8
#define ANSWER_SIZE 20

/* Where the child of an init, which has not begun to serve, finds it. */
void init_announce(const char *number)
{
	setenv(VARIABLE, number, 1);
}

/* The descriptor, or -1; commands do not see it. */
int init_connect(void)
{
	const char *word = getenv(VARIABLE);
	int fd = word ? atoi(word) : -1;

	unsetenv(VARIABLE);
	if (fd < 3 || fcntl(fd, F_SETFD, FD_CLOEXEC))
		return -1;
	return fd;
}

/* 0 or an errno; init-oci's word on the workload is put into `state`. */
int init_ask(int fd, uint32_t what, uint32_t number, struct agent_state *state)
{
	uint8_t request[REQUEST_SIZE], answer[ANSWER_SIZE];
	struct pollfd file = { fd, POLLIN, 0 };

	if (fd < 0)
		return ENOTCONN;
	/* An answer that came too late is none to this question. */
	while (recv(fd, answer, sizeof answer, MSG_DONTWAIT) > 0)
		;
	put_u32(request, what);
	put_u32(request + 4, number);
	if (send(fd, request, sizeof request, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof request)
		return errno;
	if (poll(&file, 1, ANSWER_MS) <= 0)
		return ETIMEDOUT;
	if (recv(fd, answer, sizeof answer, MSG_DONTWAIT) != sizeof answer)
		return EPROTO;
	state->workload = get_u32(answer + 4);
	state->kind = get_u32(answer + 8);
	state->value = get_u32(answer + 12);
	state->pid = get_u32(answer + 16);
	return get_u32(answer);
}
