// SPDX-License-Identifier: Apache-2.0
/* The agent: started outside of the image's PID namespace, with its commands inside. */
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AGENT_FILE "/supermachine-agent"
#define AGENT_SOCKET 3

/* The file is in the initramfs, out of reach by name once the root has moved. */
int open_agent(void)
{
	int fd = open(AGENT_FILE, O_PATH | O_CLOEXEC), high;

	if (fd < 0)
		return -1;
	high = fcntl(fd, F_DUPFD_CLOEXEC, AGENT_SOCKET + 1);
	close(fd);
	return high;
}

static bool is_short_of(int error)
{
	return error == ENOMEM || error == EAGAIN || error == ENFILE || error == EMFILE;
}

struct agent {
	int file;
	pid_t namespace;
	int socket;
};

static int become_agent(void *argument)
{
	const struct agent *agent = argument;
	char *const argv[] = { "supermachine-agent", NULL };
	char *const env[] = { "PATH=" DEFAULT_PATH, "HOME=/root", "SUPERMACHINE_INIT=3", NULL };
	int pidfd = (int)syscall(SYS_pidfd_open, agent->namespace, 0), error;
	bool ready, again;

	setsid();
	unblock_signals();
	umask(0022);
	ready = pidfd >= 0 && !setns(pidfd, CLONE_NEWPID) && dup2(agent->socket, AGENT_SOCKET) >= 0 &&
		!fcntl(AGENT_SOCKET, F_SETFD, 0);
	if (ready)
		fexecve(agent->file, argv, env);
	error = errno;
	again = !ready || is_short_of(error);
	say("init-oci: warning: " AGENT_FILE ": %s%s", strerror(error), again ? "" : "; going on without it");
	_exit(again ? 1 : AGENT_NOT_RUN);
}

pid_t start_agent(int file, pid_t namespace, int *socket)
{
	struct agent agent = { .file = file, .namespace = namespace };
	int ends[2], error;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return -1;
	agent.socket = ends[1];
	pid = start_program(become_agent, &agent);
	error = errno;
	close(ends[1]);
	if (pid < 0)
		close(ends[0]);
	else
		*socket = ends[0];
	errno = error;
	return pid;
}
