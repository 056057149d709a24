// SPDX-License-Identifier: Apache-2.0
/* The last steps of a process before it is the entrypoint. */
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

void unblock_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* A session of its own, with the console as its terminal or with three files that are none. */
static bool open_files(const struct launch *launch)
{
	int null;

	setsid();
	if (launch->config->tty) {
		ioctl(STDIN_FILENO, TIOCSCTTY, 0); /* job control where the console is a terminal */
		return true;
	}
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(launch->streams[0], STDOUT_FILENO) >= 0 &&
	       dup2(launch->streams[1], STDERR_FILENO) >= 0;
}

static bool set_limits(const struct config *config)
{
	for (size_t i = 0; i < config->limit_count; i++)
		if (setrlimit(config->limits[i].resource, &config->limits[i].value))
			return false;
	return true;
}

/* The kernel gives a program of root what the bounding set has, and a program of anybody else nothing. */
static bool bound_capabilities(const struct config *config)
{
	for (int number = 0; config->has_capabilities && prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++)
		if (!(config->capabilities >> number & 1) && prctl(PR_CAPBSET_DROP, number, 0, 0, 0))
			return false;
	return true;
}

_Noreturn void become_entrypoint(const struct launch *launch, int socket)
{
	const struct config *config = launch->config;
	const struct identity *who = &launch->who;
	const char *step;
	int error;

	unblock_signals();
	signal(SIGPIPE, SIG_DFL);
	signal(SIGCHLD, SIG_DFL);
	umask(0022);
	step = "open the files of";
	if (!open_files(launch))
		goto failed;
	step = "set the limits of";
	if (!set_limits(config))
		goto failed;
	step = "set the groups of";
	if (setgroups(who->group_count, who->groups))
		goto failed;
	step = "set the capabilities of";
	if (!bound_capabilities(config))
		goto failed;
	step = "set the user of";
	if (setgid(who->gid) || setuid(who->uid))
		goto failed;
	step = "set no_new_privs of";
	if (config->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		goto failed;
	step = "enter the working directory of";
	if (chdir(config->cwd))
		goto failed;
	step = "run";
	environ = config->env.items; /* execvp looks for PATH there */
	execvp(config->args.items[0], config->args.items);
failed:
	error = errno;
	say("init-oci: error: cannot %s the entrypoint %s: %s", step, config->args.items[0], strerror(error));
	send_message(socket, MESSAGE_FAILED, error);
	_exit(error == ENOENT ? 127 : 126);
}
