/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that count, one bound to each CPU: what shows whether a CPU runs. */
#ifndef SMPARK_SPINNERS_H
#define SMPARK_SPINNERS_H

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_CPUS 64
#define REST_MS 50 /* how long a parked CPU is watched */
#define MOVE_MS 120000 /* how long one that runs may take to show it, when the host has much else to do */

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
	if (!bind_to(cpu) || (fifo_priority && syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &param)))
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

	before = *counters;
	for (int waited = 0; waited < REST_MS || (counters->at[own] == before.at[own] && waited < MOVE_MS); waited += 5)
		pause_ms(5);
	if (sched_getcpu() != own)
		return bad("the caller went from CPU %d to CPU %d", own, sched_getcpu());
	for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
		bool moved = counters->at[cpu] != before.at[cpu];

		if (CPU_ISSET(cpu, &cpus) && moved != (cpu == own))
			return bad("CPU %d %s while CPU %d had the others parked", cpu, moved ? "ran" : "stood still",
				   own);
	}
	return true;
}

/* The call, and what it must answer: 0 or an errno. */
static bool answers(int fd, unsigned long call, int expected)
{
	int found = ioctl(fd, call) ? errno : 0;

	if (found != expected)
		return bad("ioctl 0x%lx answered \"%s\", expected \"%s\"", call, strerror(found), strerror(expected));
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

#endif
