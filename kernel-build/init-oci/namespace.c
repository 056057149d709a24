// SPDX-License-Identifier: Apache-2.0
/*
 * The image's PID namespace and its first process, which becomes the entrypoint
 * or runs it and reaps what ends. PID 1 of the guest and the agent are outside.
 */
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_SIZE (64 * 1024)

void send_message(int socket, enum message_kind kind, int value)
{
	const struct message message = { kind, value };

	send(socket, &message, sizeof message, MSG_NOSIGNAL);
}

/* PID 1 of the guest is there as long as anything is. */
static struct message receive(int socket)
{
	struct message message;

	if (recv(socket, &message, sizeof message, 0) != sizeof message)
		_exit(1);
	return message;
}

/*
 * A process that becomes another program at once. Until it has, it runs in our memory, and we wait: a copy, as fork(2)
 * makes it, would only be thrown away. -1, and errno says why.
 */
pid_t start_program(int (*become)(void *), void *argument)
{
	static _Alignas(16) char stack[STACK_SIZE];

	return clone(become, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, argument);
}

struct entrypoint {
	const struct launch *launch;
	int socket;
};

static int run_entrypoint(void *argument)
{
	const struct entrypoint *entrypoint = argument;

	become_entrypoint(entrypoint->launch, entrypoint->socket);
}

static pid_t start_entrypoint(const struct launch *launch, int socket)
{
	struct entrypoint entrypoint = { launch, socket };
	pid_t pid = start_program(run_entrypoint, &entrypoint);

	for (int i = 0; i < STREAMS; i++)
		if (launch->streams[i] >= 0)
			close(launch->streams[i]); /* or PID 1 would never see their end */
	if (pid < 0) {
		say("init-oci: error: cannot fork: %s", strerror(errno));
		send_message(socket, MESSAGE_FAILED, errno);
		send_message(socket, MESSAGE_ENDED, 126 << 8);
	} else {
		send_message(socket, MESSAGE_STARTED, pid);
	}
	return pid;
}

static void reap_children(pid_t *entrypoint, int socket)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == *entrypoint) {
			*entrypoint = -1; /* the number may be another's from now on */
			send_message(socket, MESSAGE_ENDED, status);
		}
}

static _Noreturn void run_and_reap(const struct launch *launch, int socket)
{
	struct signalfd_siginfo info;
	struct pollfd wanted[2] = { { .fd = socket, .events = POLLIN }, { .events = POLLIN } };
	pid_t entrypoint = -1;
	sigset_t blocked;

	sigprocmask(SIG_SETMASK, NULL, &blocked);
	wanted[1].fd = signalfd(-1, &blocked, SFD_CLOEXEC);
	for (;;) {
		if (poll(wanted, 2, -1) < 0)
			continue;
		if (wanted[1].revents && read(wanted[1].fd, &info, sizeof info) == sizeof info) {
			if (info.ssi_signo != SIGCHLD && entrypoint > 0)
				kill(entrypoint, (int)info.ssi_signo);
			reap_children(&entrypoint, socket);
		}
		if (wanted[0].revents) {
			struct message message = receive(socket);

			if (message.kind == MESSAGE_GO)
				entrypoint = start_entrypoint(launch, socket);
			else if (message.kind == MESSAGE_SIGNAL && entrypoint > 0)
				kill(entrypoint, message.value);
		}
	}
}

/* What PID 1 has open (the agent's file, the volumes) is none of the image's, whose root looks into /proc/1/fd. */
static void close_all_but(const int *kept, size_t count)
{
	unsigned from = STDERR_FILENO + 1, next;

	do {
		next = UINT_MAX;
		for (size_t i = 0; i < count; i++)
			if (kept[i] >= (int)from && (unsigned)kept[i] < next)
				next = kept[i];
		if (next > from)
			syscall(SYS_close_range, from, next == UINT_MAX ? next : next - 1, 0);
		from = next + 1;
	} while (next != UINT_MAX);
}

static _Noreturn void be_first(const struct launch *launch, int socket)
{
	const int kept[] = {
		socket,
		console_descriptor(),
		launch ? launch->streams[0] : -1,
		launch ? launch->streams[1] : -1,
	};

	close_all_but(kept, sizeof kept / sizeof *kept);
	setsid();
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) {
		say("init-oci: error: cannot mount proc at /proc: %s", strerror(errno));
		_exit(1);
	}
	send_message(socket, MESSAGE_READY, 0);
	if (!launch || !launch->config->pid1)
		run_and_reap(launch, socket);
	signal(SIGCHLD, SIG_IGN); /* nobody waits for what the agent's commands leave behind meanwhile */
	while (receive(socket).kind != MESSAGE_GO)
		;
	send_message(socket, MESSAGE_STARTED, 1);
	become_entrypoint(launch, socket);
}

/* Whatever this process forks is in `of`'s PID namespace from now on. */
static bool fork_into_namespace(pid_t of)
{
	int pidfd = (int)syscall(SYS_pidfd_open, of, 0);
	bool done = pidfd >= 0 && !setns(pidfd, CLONE_NEWPID);

	if (pidfd >= 0)
		close(pidfd);
	return done;
}

pid_t start_namespace(const struct launch *launch, int *socket)
{
	struct message message;
	int ends[2];
	pid_t pid;

	if (!make_folders("/proc"))
		fail("cannot make /proc in the image's root: %s", strerror(errno));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) || unshare(CLONE_NEWPID))
		fail("cannot make a PID namespace: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		fail("cannot fork: %s", strerror(errno));
	if (!pid) {
		close(ends[0]);
		be_first(launch, ends[1]);
	}
	close(ends[1]);
	if (!fork_into_namespace(getpid()))
		fail("cannot leave the image's PID namespace: %s", strerror(errno));
	if (recv(ends[0], &message, sizeof message, 0) != sizeof message)
		power_off(); /* it has said why */
	*socket = ends[0];
	return pid;
}
