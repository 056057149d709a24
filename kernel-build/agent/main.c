// SPDX-License-Identifier: Apache-2.0
/* supermachine-agent: runs commands in the guest for a caller on vsock. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
	"usage: supermachine-agent [serve]\n"
	"           listen on the agent's vsock port and run commands for callers\n"
	"       supermachine-agent exec [--cwd DIR] [--env NAME=VALUE]... [--] COMMAND [ARG]...\n"
	"           as root in the guest: run a command through the agent; its exit status is ours,\n"
	"           128 + N for signal N, 126 or 127 if it could not be run, 125 if the agent could not be called\n"
	"       supermachine-agent selftest [CHECK]...\n"
	"           as root in the guest: check pid1, root, smpark and agent, or the checks named;\n"
	"           others are smpark-faults, and poweroff, which ends the guest\n"
	"       supermachine-agent version\n";

static int usage(void)
{
	fputs(help, stderr);
	return 2;
}

static int exec_main(int argc, char **argv)
{
	struct command command = { .cwd = "" };
	struct outcome outcome;
	char *env[argc + 1];
	int at = 0;

	for (; at < argc && argv[at][0] == '-'; at += 2) {
		if (!strcmp(argv[at], "--")) {
			at++;
			break;
		}
		if (at + 1 == argc)
			return usage();
		if (!strcmp(argv[at], "--cwd"))
			command.cwd = argv[at + 1];
		else if (!strcmp(argv[at], "--env") && strchr(argv[at + 1], '='))
			env[command.envc++] = argv[at + 1];
		else
			return usage();
	}
	if (at >= argc)
		return usage();
	env[command.envc] = NULL;
	command.env = env;
	command.argv = argv + at;
	command.argc = argc - at;
	signal(SIGPIPE, SIG_IGN);	/* a reader of ours that has gone is no reason to stop the command */
	if (!exec_in_guest(&command, STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, &outcome))
		return 125;
	if (outcome.kind == EXIT_NOT_RUN) {
		fprintf(stderr, "supermachine-agent: cannot run %s: %s\n", command.argv[0],
			strerror(outcome.value));
		return outcome.value == ENOENT ? 127 : 126;
	}
	return outcome.kind == EXIT_SIGNAL ? 128 + outcome.value : outcome.value;
}

/* What is opened next must not become a standard file by being the first free number. */
static bool open_standard_files(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			return false;
	return true;
}

/* What init-oci has given the agent is not for its commands. */
static void forget_init(void)
{
	const char *socket = getenv("SUPERMACHINE_INIT");

	if (socket)
		fcntl(atoi(socket), F_SETFD, FD_CLOEXEC);
	unsetenv("SUPERMACHINE_INIT");
}

int main(int argc, char **argv)
{
	if (!open_standard_files()) {
		fprintf(stderr, "supermachine-agent: a standard file is closed, and /dev/null: %s\n", strerror(errno));
		return 125;
	}
	if (argc == 1 || (argc == 2 && !strcmp(argv[1], "serve"))) {
		forget_init();
		return serve();
	}
	if (!strcmp(argv[1], "exec"))
		return exec_main(argc - 2, argv + 2);
	if (!strcmp(argv[1], "selftest"))
		return selftest(argv + 2);
	if (argc == 2 && !strcmp(argv[1], "version")) {
		printf("supermachine-agent, guest contract %d\n", CONTRACT);
		return 0;
	}
	return usage();
}
