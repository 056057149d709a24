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

static _Noreturn void become_agent(int file, pid_t namespace, int socket)
{
	char *const argv[] = { "supermachine-agent", NULL };
	char *const env[] = { "PATH=" DEFAULT_PATH, "HOME=/root", "SUPERMACHINE_INIT=3", NULL };
	int pidfd = (int)syscall(SYS_pidfd_open, namespace, 0);

	setsid();
	unblock_signals();
	umask(0022);
	if (pidfd >= 0 && !setns(pidfd, CLONE_NEWPID) && dup2(socket, AGENT_SOCKET) >= 0 &&
	    !fcntl(AGENT_SOCKET, F_SETFD, 0))
		fexecve(file, argv, env);
	say("init-oci: warning: " AGENT_FILE ": %s; going on without it", strerror(errno));
	_exit(127);
}

pid_t start_agent(int file, pid_t namespace, int *socket)
{
	int ends[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		fail("cannot start the agent: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		fail("cannot start the agent: %s", strerror(errno));
	if (!pid)
		become_agent(file, namespace, ends[1]);
	close(ends[1]);
	*socket = ends[0];
	return pid;
}
