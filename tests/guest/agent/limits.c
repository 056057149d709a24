// SPDX-License-Identifier: Apache-2.0
/* What of the agent has a limit that no caller reaches at will: limits error | children. Sanitizers see the rest. */
#include "agent.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* A channel that is full of frames of `size` bytes takes an ERROR of the greatest length all the same. */
static int put_error_when_full(size_t size)
{
	struct channel *channel = calloc(1, sizeof *channel);
	char text[1024] = { 0 };
	size_t before;
	int taken;

	if (!channel)
		return 1;
	while (channel_room(channel) > size)
		channel_put(channel, FRAME_PING, text, size);
	memset(text, 'x', sizeof text - 1);
	before = channel->out_size;
	channel_put_error(channel, EIO, text);
	taken = channel->out_size <= sizeof channel->out && channel->out_size - before > 500;
	free(channel);
	return taken ? 0 : 1;
}

static int outlast_child(void)
{
	pid_t child = fork();
	int left;

	if (!child) {
		pause();
		_exit(0);
	}
	reap_all(100);
	left = kill(child, 0);
	kill(child, SIGKILL);
	reap_all(60000); /* at once */
	return left || waitpid(-1, NULL, 0) != -1;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "error"))
		return put_error_when_full(0) || put_error_when_full(1) || put_error_when_full(255);
	return argc == 2 && !strcmp(argv[1], "children") ? outlast_child() : 2;
}
