// SPDX-License-Identifier: Apache-2.0
/* A look at the guest from within, one line for each check: what a host sees after a boot. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "../smpark/smpark.h"

#define DEVICE "/dev/smpark"

/* What the line of a check says after its name. */
static char detail[512];

static bool set_detail(bool good, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(detail, sizeof detail, format, args);
	va_end(args);
	return good;
}

#define good(...) set_detail(true, __VA_ARGS__)
#define bad(...) set_detail(false, __VA_ARGS__)

/* Where the guest has no init-oci, the agent itself is PID 1; the kernel keeps 15 bytes of a name. */
static bool check_pid1(void)
{
	char name[32] = "";
	int fd = open("/proc/1/comm", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, name, sizeof name - 1);

	if (fd >= 0)
		close(fd);
	name[strcspn(name, "\n")] = '\0';
	if (got > 0 && !strcmp(name, "init-oci"))
		return good("PID 1 is init-oci");
	if (got > 0 && !strcmp(name, "supermachine-ag"))
		return good("PID 1 is supermachine-agent");
	return bad("PID 1 is \"%s\", expected init-oci or supermachine-agent", name);
}

static bool check_root(void)
{
	static const char path[] = "/.selftest";
	struct statfs status;
	int fd;

	if (statfs("/", &status) || status.f_type != OVERLAYFS_SUPER_MAGIC)
		return bad("/ is no overlayfs (type 0x%lx)", (unsigned long)status.f_type);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, "x", 1) != 1 || close(fd) || unlink(path))
		return bad("/ cannot be written: %s", strerror(errno));
	return good("/ is an overlayfs and can be written");
}

static bool answers(int fd, unsigned long call, int expected)
{
	int found = ioctl(fd, call) ? errno : 0;

	if (found != expected)
		return bad("ioctl 0x%lx answered \"%s\", expected \"%s\"", call, strerror(found), strerror(expected));
	return true;
}

static bool check_smpark(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct stat status;
	bool done;

	if (fd < 0 || fstat(fd, &status))
		return bad(DEVICE ": %s", strerror(errno));
	if (status.st_mode != (S_IFCHR | 0600))
		return bad(DEVICE " has mode %o, expected %o", status.st_mode, S_IFCHR | 0600);
	done = answers(fd, SMPARK_UNPARK, EALREADY) && answers(fd, SMPARK_PARK, 0) && answers(fd, SMPARK_PARK, EBUSY) &&
	       answers(fd, SMPARK_UNPARK, 0);
	close(fd);
	return done ? good("parked and released %ld of %ld CPUs", cpus - 1, cpus) : false;
}

/* One of our own commands, through the agent, as another program; its output goes to the two files. */
static bool call_self(const char *word, int out, int err, struct outcome *outcome)
{
	static struct agent_answer answer;
	const struct agent_files files = { -1, out, err, -1 };
	struct agent_request request = { 0 };
	int socket = connect_agent();
	bool answered;

	if (socket < 0)
		return bad("the agent could not be called");
	agent_string(&request, FIELD_ARG, "/proc/self/exe");
	agent_string(&request, FIELD_ARG, word);
	answered = agent_call(socket, FRAME_EXEC, &request, &files, &answer);
	agent_close(socket);
	agent_request_end(&request);
	*outcome = answer.outcomes[0];
	return answered ? true : bad("the agent: %s", answer.text);
}

static bool check_agent(void)
{
	char expected[64], said[sizeof expected] = "";
	struct outcome outcome;
	struct stat written;
	int out = memfd_create("out", MFD_CLOEXEC), err = memfd_create("err", MFD_CLOEXEC);

	snprintf(expected, sizeof expected, "supermachine-agent, protocol %d\n", AGENT_PROTOCOL);
	if (out < 0 || err < 0)
		return bad("memfd_create: %s", strerror(errno));
	if (!call_self("version", out, err, &outcome))
		return false;
	if (pread(out, said, sizeof said - 1, 0) < 0 || strcmp(said, expected))
		return bad("the command's output is \"%s\", expected \"%s\"", said, expected);
	if (outcome.kind != EXIT_STATUS || outcome.value)
		return bad("the command ended with kind %u, value %u, expected 0, 0", outcome.kind, outcome.value);
	if (!call_self("no-such-word", out, err, &outcome))
		return false;
	if (outcome.kind != EXIT_STATUS || outcome.value != 2)
		return bad("a wrong command ended with kind %u, value %u, expected 0, 2", outcome.kind, outcome.value);
	if (fstat(err, &written) || !written.st_size)
		return bad("a wrong command said nothing on stderr");
	close(out);
	close(err);
	return good("ran commands over vsock loopback: output and exit statuses 0 and 2 came back");
}

static const struct check {
	const char *name;
	bool (*run)(void);
} checks[] = {
	{ "pid1", check_pid1 },
	{ "root", check_root },
	{ "smpark", check_smpark },
	{ "agent", check_agent },
};

static bool run_check(const struct check *check)
{
	bool passed = check->run();

	printf("selftest: %s: %s: %s\n", check->name, passed ? "ok" : "failed", detail);
	fflush(stdout);
	return passed;
}

int selftest(char **names)
{
	const size_t count = sizeof checks / sizeof *checks;
	int status = 0;

	for (size_t i = 0; !*names && i < count; i++)
		if (!run_check(&checks[i]))
			status = 1;
	for (; *names; names++) {
		size_t i = 0;

		while (i < count && strcmp(*names, checks[i].name))
			i++;
		if (i == count) {
			fprintf(stderr, "supermachine-agent: no check named %s\n", *names);
			return 2;
		}
		if (!run_check(&checks[i]))
			status = 1;
	}
	return status;
}
