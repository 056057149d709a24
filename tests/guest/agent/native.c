// SPDX-License-Identifier: Apache-2.0
/*
 * The agent on the machine that tests it, on a Unix socket: native SOCKET.
 * What would change the whole machine is left to guests that are booted.
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void power_off(struct control *control)
{
	(void)control;
	_exit(0);
}

int restore(struct control *control, int fd, const struct request *request, uint64_t *uncertainty_ns, const char **what)
{
	uint64_t offset;
	int error = 0;

	control->drop_callers(fd);
	*what = "CLOCK";
	if (request->ask_clock)
		error = ask_clock(fd, &offset, uncertainty_ns);
	if (error)
		return error;
	*what = "RESTORED on the testing machine";
	return ENOTSUP;
}

int renew(struct control *control, const char **what)
{
	(void)control;
	(void)what;
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc != 2)
		return 2;
	snprintf(address.sun_path, sizeof address.sun_path, "%s", argv[1]);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
		perror("native");
		return 1;
	}
	return serve_listener(fd, NULL);
}
