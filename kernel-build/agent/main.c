// SPDX-License-Identifier: Apache-2.0
/* supermachine-agent: does what a caller on vsock asks it to in the guest. */
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
	"           listen on the agent's vsock port and run commands for callers; as PID 1 of a guest, be its init too\n"
	"       supermachine-agent exec [--cwd DIR] [--user USER] [--env NAME=VALUE]... [--] COMMAND [ARG]...\n"
	"           as root in the guest: run a command through the agent; its exit status is ours,\n"
	"           128 + N for signal N, 126 or 127 if it could not be run, 125 if the agent could not be called\n"
	"       supermachine-agent selftest [CHECK]...\n"
	"           as root in the guest: check pid1, root, smpark and agent, or the checks named\n"
	"       supermachine-agent version\n";

static int usage(void)
{
	fputs(help, stderr);
	return 2;
}

static int exec_main(int argc, char **argv)
{
	const struct agent_files files = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, -1 };
	static struct agent_answer answer;
	struct agent_request request = { 0 };
	const struct outcome *outcome = answer.outcomes;
	int at = 0, socket;
	bool good;

	for (; at < argc && argv[at][0] == '-'; at += 2) {
		if (!strcmp(argv[at], "--")) {
			at++;
			break;
		}
		if (at + 1 == argc)
			return usage();
		if (!strcmp(argv[at], "--cwd"))
			agent_string(&request, FIELD_CWD, argv[at + 1]);
		else if (!strcmp(argv[at], "--user"))
			agent_string(&request, FIELD_USER, argv[at + 1]);
		else if (!strcmp(argv[at], "--env") && strchr(argv[at + 1], '='))
			agent_string(&request, FIELD_ENV, argv[at + 1]);
		else
			return usage();
	}
	if (at >= argc)
		return usage();
	for (int i = at; i < argc; i++)
		agent_string(&request, FIELD_ARG, argv[i]);
	signal(SIGPIPE, SIG_IGN); /* a reader of ours that has gone is no reason to stop the command */
	socket = connect_agent();
	if (socket < 0)
		return 125;
	good = agent_call(socket, FRAME_EXEC, &request, &files, &answer);
	agent_close(socket);
	if (!good) {
		fprintf(stderr, "supermachine-agent: %s\n", answer.text);
		return 125;
	}
	if (outcome->kind == EXIT_NOT_RUN) {
		fprintf(stderr, "supermachine-agent: cannot run %s: %s\n", argv[at], strerror(outcome->value));
		return outcome->value == ENOENT ? 127 : 126;
	}
	return outcome->kind == EXIT_SIGNAL ? 128 + outcome->value : outcome->value;
}

/* What is opened next must not become a standard file by being the first free number. */
static bool open_standard_files(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			return false;
	return true;
}

int main(int argc, char **argv)
{
	if (!open_standard_files()) {
		fprintf(stderr, "supermachine-agent: a standard file is closed, and /dev/null: %s\n", strerror(errno));
		return 125;
	}
	if (argc == 1 || (argc == 2 && !strcmp(argv[1], "serve")))
		return getpid() == 1 ? be_pid1() : serve();
	if (!strcmp(argv[1], "exec"))
		return exec_main(argc - 2, argv + 2);
	if (!strcmp(argv[1], "selftest"))
		return selftest(argv + 2);
	if (argc == 2 && !strcmp(argv[1], "version")) {
		printf("supermachine-agent, protocol %d\n", AGENT_PROTOCOL);
		return 0;
	}
	return usage();
}
