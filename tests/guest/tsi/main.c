// SPDX-License-Identifier: Apache-2.0
/* cases SERVER_PORT CLOSED_PORT UDP_PORT UDP_PORT UDP_PORT [NAME]...: runs the cases, or those that are named. */
#include "cases.h"

#include <stdarg.h>
#include <sys/wait.h>

#define LIMIT 120 /* seconds; no case takes more than a few on a machine with time for it */

static struct {
	const char *name;
	void (*run)(void);
	bool named_only;
} cases[200];
static int count;
int server_port, closed_port, udp_ports[3];

void add_case(const char *name, void (*run)(void))
{
	cases[count].name = name;
	cases[count++].run = run;
}

void add_fault(const char *name, void (*run)(void))
{
	cases[count].named_only = true;
	add_case(name, run);
}

void fail(const char *file, int line, const char *what)
{
	dprintf(1, "%s:%d: expected %s; errno: %s\n", file, line, what, strerror(errno));
	_exit(1);
}

static void run(int index)
{
	char said[512] = "";
	size_t used = 0;
	ssize_t got;
	int status, ends[2];
	pid_t child;

	if (pipe(ends) || (child = fork()) < 0)
		exit(1);
	if (!child) {
		dup2(ends[1], 1);
		close(ends[0]);
		close(ends[1]);
		alarm(LIMIT);
		cases[index].run();
		_exit(0);
	}
	close(ends[1]);
	while (used < sizeof said - 1 && (got = read(ends[0], said + used, sizeof said - 1 - used)) > 0)
		used += got;
	close(ends[0]);
	waitpid(child, &status, 0);
	said[strcspn(said, "\n")] = 0;
	if (WIFSIGNALED(status))
		printf("case %s: %s\n", cases[index].name,
		       WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
	else
		printf("case %s: %s\n", cases[index].name, status ? said : "ok");
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	if (argc < 6)
		return 2;
	server_port = atoi(argv[1]);
	closed_port = atoi(argv[2]);
	for (int n = 0; n < 3; n++)
		udp_ports[n] = atoi(argv[3 + n]);
	for (int index = 0; index < count; index++) {
		bool wanted = argc == 6 && !cases[index].named_only;

		for (int n = 6; n < argc; n++)
			wanted |= !strcmp(argv[n], cases[index].name);
		if (wanted)
			run(index);
	}
	printf("cases: done\n");
	return 0;
}
