// SPDX-License-Identifier: Apache-2.0
/* Checks of the guest contract from within the guest, one line each. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../smpark/smpark.h"

#define DEVICE		"/dev/smpark"
#define MAX_CPUS	64
#define REST_MS		50	/* how long a parked CPU is watched */
#define MOVE_MS		2000	/* how long a released one may take */
#define ROUNDS		100

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

static void pause_ms(long ms)
{
	struct timespec left = { ms / 1000, ms % 1000 * 1000000 };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

/* ---- pid1, root, agent ---- */

static bool check_pid1(void)
{
	char name[32] = "";
	int fd = open("/proc/1/comm", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, name, sizeof name - 1);

	if (fd >= 0)
		close(fd);
	name[strcspn(name, "\n")] = '\0';
	if (got <= 0 || strcmp(name, "init-oci"))
		return bad("PID 1 is \"%s\", expected init-oci", name);
	return good("PID 1 is init-oci");
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

/* One of our own commands, through the agent, as another program; its output goes to the two files. */
static bool call_self(char *word, int out, int err, struct outcome *outcome)
{
	char *argv[] = { "/proc/self/exe", word, NULL };
	const struct command command = { .argv = argv, .argc = 2, .cwd = "/" };

	return exec_in_guest(&command, -1, out, err, outcome);
}

static bool check_agent(void)
{
	char expected[64], said[sizeof expected] = "";
	struct outcome outcome;
	struct stat written;
	int out = memfd_create("out", MFD_CLOEXEC), err = memfd_create("err", MFD_CLOEXEC);

	snprintf(expected, sizeof expected, "supermachine-agent, guest contract %d\n", CONTRACT);
	if (out < 0 || err < 0)
		return bad("memfd_create: %s", strerror(errno));
	if (!call_self("version", out, err, &outcome))
		return bad("no command could be run");
	if (pread(out, said, sizeof said - 1, 0) < 0 || strcmp(said, expected))
		return bad("the command's output is \"%s\", expected \"%s\"", said, expected);
	if (outcome.kind != EXIT_STATUS || outcome.value)
		return bad("the command ended with kind %u, value %u, expected 0, 0", outcome.kind, outcome.value);
	if (!call_self("no-such-word", out, err, &outcome))
		return bad("no second command could be run");
	if (outcome.kind != EXIT_STATUS || outcome.value != 2)
		return bad("a wrong command ended with kind %u, value %u, expected 0, 2", outcome.kind, outcome.value);
	if (fstat(err, &written) || !written.st_size)
		return bad("a wrong command said nothing on stderr");
	close(out);
	close(err);
	return good("ran commands over vsock loopback: output and exit statuses 0 and 2 came back");
}

/* ---- smpark ---- */

/* A counter for each CPU, kept running by a process bound to it. */
struct counters {
	volatile unsigned long at[MAX_CPUS];
};

static struct counters *counters;
static pid_t spinners[MAX_CPUS];
static cpu_set_t cpus;

static bool bind_to(int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return !sched_setaffinity(0, sizeof one, &one);
}

static pid_t spawn_spinner(int cpu, int fifo_priority)
{
	const struct sched_param param = { .sched_priority = fifo_priority };
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* The device among them: its last copy must be the parent's to close. */
	syscall(SYS_close_range, 3, ~0U, 0);
	/* musl's sched_setscheduler() only ever fails, by design */
	if (!bind_to(cpu) ||
	    (fifo_priority && syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &param)))
		_exit(1);
	for (;;)
		counters->at[cpu]++;
}

static void end_spinner(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void end_spinners(void)
{
	for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
		if (spinners[cpu] > 0)
			end_spinner(spinners[cpu]);
		spinners[cpu] = 0;
	}
}

static bool all_move(void)
{
	struct counters before = *counters;

	for (int waited = 0, moved = 0; waited < MOVE_MS && moved < CPU_COUNT(&cpus); waited += 5) {
		pause_ms(5);
		moved = 0;
		for (int cpu = 0; cpu < MAX_CPUS; cpu++)
			moved += CPU_ISSET(cpu, &cpus) && counters->at[cpu] != before.at[cpu];
		if (moved == CPU_COUNT(&cpus))
			return true;
	}
	return bad("a CPU did not run on within %d ms", MOVE_MS);
}

static bool only_caller_moves(void)
{
	struct counters before;
	int own = sched_getcpu();

	pause_ms(REST_MS / 2);
	before = *counters;
	pause_ms(REST_MS);
	if (sched_getcpu() != own)
		return bad("the caller went from CPU %d to CPU %d", own, sched_getcpu());
	for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
		bool moved = counters->at[cpu] != before.at[cpu];

		if (CPU_ISSET(cpu, &cpus) && moved != (cpu == own))
			return bad("CPU %d %s while CPU %d had the others parked", cpu,
				   moved ? "ran" : "stood still", own);
	}
	return true;
}

/* The call, and what it must answer: 0 or an errno. */
static bool answers(int fd, unsigned long call, int expected)
{
	int found = ioctl(fd, call) ? errno : 0;

	if (found != expected)
		return bad("ioctl 0x%lx answered \"%s\", expected \"%s\"", call, strerror(found),
			   strerror(expected));
	return true;
}

static bool start_counting(void)
{
	if (sched_getaffinity(0, sizeof cpus, &cpus))
		return bad("sched_getaffinity: %s", strerror(errno));
	counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (counters == MAP_FAILED)
		return bad("mmap: %s", strerror(errno));
	for (int cpu = 0; cpu < MAX_CPUS; cpu++)
		if (CPU_ISSET(cpu, &cpus))
			spinners[cpu] = spawn_spinner(cpu, 0);
	return all_move();
}

static bool affinity_is(const cpu_set_t *expected)
{
	cpu_set_t found;

	return !sched_getaffinity(0, sizeof found, &found) && CPU_EQUAL(&found, expected);
}

static bool parks(int fd, int other_fd)
{
	cpu_set_t own;
	pid_t child;

	if (!answers(fd, SMPARK_UNPARK, EALREADY) || !answers(fd, SMPARK_PARK, 0) || !only_caller_moves())
		return false;
	CPU_ZERO(&own);
	CPU_SET(sched_getcpu(), &own);
	if (!affinity_is(&own))
		return bad("the caller is not bound to its CPU while the others are parked");
	if (!answers(fd, SMPARK_PARK, EBUSY) || !answers(other_fd, SMPARK_PARK, EBUSY) ||
	    !answers(other_fd, SMPARK_UNPARK, EPERM) || !answers(fd, _IO('M', 3), ENOTTY))
		return false;
	close(other_fd);
	child = fork();
	if (!child)
		_exit(0);
	waitpid(child, NULL, 0);
	/* Neither close was the caller's of the file that parked. */
	if (!only_caller_moves() || !answers(fd, SMPARK_UNPARK, 0) || !all_move())
		return false;
	if (!affinity_is(&cpus))
		return bad("the caller's CPUs are not what they were before PARK");
	return true;
}

static bool parks_often(int fd)
{
	for (int i = 0; i < ROUNDS; i++)
		if (!answers(fd, SMPARK_PARK, 0) || !answers(fd, SMPARK_UNPARK, 0))
			return false;
	return all_move();
}

static bool closing_releases(int *fd)
{
	if (!answers(*fd, SMPARK_PARK, 0) || !only_caller_moves())
		return false;
	close(dup(*fd));
	if (!answers(*fd, SMPARK_UNPARK, EALREADY) || !all_move() || !answers(*fd, SMPARK_PARK, 0))
		return false;
	close(*fd);
	*fd = -1;
	return all_move();
}

static bool check_smpark(void)
{
	struct stat status;
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC), other_fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	bool done;

	if (fd < 0 || other_fd < 0 || fstat(fd, &status))
		return bad(DEVICE ": %s", strerror(errno));
	if (status.st_mode != (S_IFCHR | 0600))
		return bad(DEVICE " has mode %o, expected %o", status.st_mode, S_IFCHR | 0600);
	done = start_counting() && parks(fd, other_fd) && parks_often(fd) && closing_releases(&fd);
	close(fd);	/* a spinner on a parked CPU could not end */
	end_spinners();
	return done ? good("parked and released %d of %d CPUs", CPU_COUNT(&cpus) - 1, CPU_COUNT(&cpus)) : false;
}

/* ---- smpark-faults ---- */

/* A CPU kept by a more urgent task: PARK gives up in time, and all run again. */
static bool late_cpu(int fd, int own, int other)
{
	pid_t hog;
	bool done;

	if (!bind_to(own))
		return bad("sched_setaffinity: %s", strerror(errno));
	hog = spawn_spinner(other, 99);
	for (int waited = 0; waited < MOVE_MS && syscall(SYS_sched_getscheduler, hog) != SCHED_FIFO; waited += 5)
		pause_ms(5);
	done = answers(fd, SMPARK_PARK, ETIMEDOUT) && answers(fd, SMPARK_UNPARK, EALREADY);
	ioctl(fd, SMPARK_UNPARK);	/* if it parked after all: a hog on a parked CPU could not end */
	end_spinner(hog);
	if (sched_setaffinity(0, sizeof cpus, &cpus))
		return bad("sched_setaffinity: %s", strerror(errno));
	return done && all_move() && answers(fd, SMPARK_PARK, 0) && only_caller_moves() &&
	       answers(fd, SMPARK_UNPARK, 0) && all_move();
}

/*
 * Killed while it has the others parked: its file is closed, which releases them,
 * though a child of it that is on a parked CPU has the file too.
 */
static bool killed_caller(int own, int other)
{
	char ready;
	int report[2];
	pid_t pid;
	bool parked, moved;

	if (pipe(report))
		return bad("pipe: %s", strerror(errno));
	pid = fork();
	if (!pid) {
		int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

		setpgid(0, 0);
		if (!bind_to(other))
			_exit(1);
		if (!fork()) {
			close(report[1]);
			for (;;)
				pause();
		}
		if (bind_to(own) && fd >= 0 && !ioctl(fd, SMPARK_PARK) && write(report[1], "p", 1) == 1)
			raise(SIGKILL);
		_exit(1);
	}
	close(report[1]);
	parked = read(report[0], &ready, 1) == 1;
	close(report[0]);
	waitpid(pid, NULL, 0);
	moved = all_move();
	kill(-pid, SIGKILL);
	return parked ? moved : bad("a child could not park");
}

static bool is_busy(const char *what, int error)
{
	return error == EBUSY ? true : bad("%s answered \"%s\", expected \"%s\"", what, strerror(error), strerror(EBUSY));
}

/* The module stays as long as anybody has its device open. */
static bool module_held(void)
{
	int error = syscall(SYS_delete_module, "smpark", O_NONBLOCK) ? errno : 0;

	return is_busy("unloading the module", error == EAGAIN ? EBUSY : error);
}

/* A CPU comes and goes only while nothing is parked; its thread comes and goes with it. */
static bool hotplug_held(int fd, int other)
{
	char path[64];
	int online;
	bool done;

	snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/online", other);
	online = open(path, O_WRONLY | O_CLOEXEC);
	if (online < 0)	/* the kernel was built without CPU hotplug */
		return errno == ENOENT ? true : bad("%s: %s", path, strerror(errno));
	if (!answers(fd, SMPARK_PARK, 0))
		return false;
	done = is_busy("taking a CPU offline", write(online, "0", 1) < 0 ? errno : 0);
	if (!answers(fd, SMPARK_UNPARK, 0) || !done || !all_move())
		return false;
	end_spinners();
	done = write(online, "0", 1) == 1 && answers(fd, SMPARK_PARK, 0) && answers(fd, SMPARK_UNPARK, 0) &&
	       write(online, "1", 1) == 1;
	close(online);
	return done && start_counting() && answers(fd, SMPARK_PARK, 0) && only_caller_moves() &&
	       answers(fd, SMPARK_UNPARK, 0) && all_move();
}

static bool check_smpark_faults(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC), own, other;
	bool done;

	if (fd < 0)
		return bad(DEVICE ": %s", strerror(errno));
	if (!start_counting()) {
		end_spinners();
		return false;
	}
	own = sched_getcpu();
	for (other = MAX_CPUS - 1; other >= 0 && (other == own || !CPU_ISSET(other, &cpus)); other--)
		;
	if (other < 0)
		return bad("needs a second CPU");
	done = late_cpu(fd, own, other) && killed_caller(own, other) && module_held() && hotplug_held(fd, other);
	close(fd);	/* as above */
	end_spinners();
	return done ? good("a late CPU, a killed caller, unloading and CPU hotplug end well") : false;
}

static bool check_poweroff(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return bad(DEVICE ": %s", strerror(errno));
	if (!answers(fd, SMPARK_PARK, 0))
		return false;
	reboot(RB_POWER_OFF);
	return bad("power off with parked CPUs: %s", strerror(errno));
}

/* ---- */

static const struct check {
	const char *name;
	bool (*run)(void);
	bool usual;	/* run when no check is named */
} checks[] = {
	{ "pid1", check_pid1, true },
	{ "root", check_root, true },
	{ "smpark", check_smpark, true },
	{ "agent", check_agent, true },
	{ "smpark-faults", check_smpark_faults, false },
	{ "poweroff", check_poweroff, false },
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
		if (checks[i].usual && !run_check(&checks[i]))
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
