// SPDX-License-Identifier: Apache-2.0
/* smpark-test parking|faults|disk|poweroff: /dev/smpark of docs/guest-contract.md, with a line for each check. */
#define _GNU_SOURCE
#include "smpark-spinners.h"

#include <fcntl.h>
#include <sys/reboot.h>
#include <sys/stat.h>

#include "../../kernel-build/smpark/smpark.h"

#define DEVICE "/dev/smpark"
#define ARRIVAL "/sys/module/smpark/parameters/arrival_ms"
#define ROUNDS 100
#define DISK "/dev/vda" /* block N is filled with N */
#define BLOCK 4096
#define BLOCKS 64

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

static bool check_parking(void)
{
	struct stat status;
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC), other_fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	bool done;

	if (fd < 0 || other_fd < 0 || fstat(fd, &status))
		return bad(DEVICE ": %s", strerror(errno));
	if (status.st_mode != (S_IFCHR | 0600))
		return bad(DEVICE " has mode %o, expected %o", status.st_mode, S_IFCHR | 0600);
	done = start_counting() && parks(fd, other_fd) && parks_often(fd) && closing_releases(&fd);
	close(fd); /* a spinner on a parked CPU could not end */
	end_spinners();
	return done ? good("parked and released %d of %d CPUs", CPU_COUNT(&cpus) - 1, CPU_COUNT(&cpus)) : false;
}

/* ---- smpark-faults ---- */

static bool set_arrival(const char *ms)
{
	int file = open(ARRIVAL, O_WRONLY | O_CLOEXEC);
	bool done = file >= 0 && write(file, ms, strlen(ms)) == (ssize_t)strlen(ms);

	close(file);
	return done ? true : bad(ARRIVAL ": %s", strerror(errno));
}

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
	done = set_arrival("500") && answers(fd, SMPARK_PARK, ETIMEDOUT) && answers(fd, SMPARK_UNPARK, EALREADY);
	ioctl(fd, SMPARK_UNPARK); /* if it parked after all: a hog on a parked CPU could not end */
	end_spinner(hog);
	if (!set_arrival("30000"))
		return false;
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
	return error == EBUSY ? true
			      : bad("%s answered \"%s\", expected \"%s\"", what, strerror(error), strerror(EBUSY));
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
	if (online < 0) /* the kernel was built without CPU hotplug */
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

static bool check_faults(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC), own, other;
	bool done;

	if (fd < 0)
		return bad(DEVICE ": %s", strerror(errno));
	if (!start_counting()) {
		end_spinners();
		return false;
	}
	own = 0;
	for (other = MAX_CPUS - 1; other >= 0 && (other == own || !CPU_ISSET(other, &cpus)); other--)
		;
	if (other < 0)
		return bad("needs a second CPU");
	done = late_cpu(fd, own, other) && killed_caller(own, other) && module_held() && hotplug_held(fd, other);
	close(fd); /* as above */
	end_spinners();
	return done ? good("a late CPU, a killed caller, unloading and CPU hotplug end well") : false;
}

/* ---- devices ---- */

/* Without the page cache, so that each waits for the device's interrupt. */
static bool disk_reads(void)
{
	static char block[BLOCK] __attribute__((aligned(BLOCK)));
	int disk = open(DISK, O_RDONLY | O_DIRECT | O_CLOEXEC);
	bool good = disk >= 0;

	for (int i = 0; good && i < BLOCKS; i++)
		good = pread(disk, block, BLOCK, (off_t)i * BLOCK) == BLOCK && block[0] == i && block[BLOCK - 1] == i;
	close(disk);
	return good ? true : bad(DISK " cannot be read while parked: %s", strerror(errno));
}

/* Send the interrupts of devices to a CPU, all of them or the first that can be sent elsewhere. */
static bool send_interrupts(int cpu, bool all)
{
	char path[64], mask[16];
	int sent = 0;

	snprintf(mask, sizeof mask, "%x", 1U << cpu);
	for (int irq = 0; irq < 256 && (all || !sent); irq++) {
		int file;

		snprintf(path, sizeof path, "/proc/irq/%d/smp_affinity", irq);
		file = open(path, O_WRONLY | O_CLOEXEC);
		sent += file >= 0 && write(file, mask, strlen(mask)) > 0;
		close(file);
	}
	return sent ? true : bad("no interrupt goes to CPU %d", cpu);
}

static bool reads_while_parked(int fd, int interrupted)
{
	bool done;

	if (!answers(fd, SMPARK_PARK, 0))
		return false;
	done = sched_getcpu() == interrupted ? disk_reads()
					     : bad("the caller is on CPU %d, expected %d", sched_getcpu(), interrupted);
	return answers(fd, SMPARK_UNPARK, 0) && done;
}

static bool check_disk(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	long last = sysconf(_SC_NPROCESSORS_ONLN) - 1;
	cpu_set_t before;

	if (fd < 0 || last < 2 || sched_getaffinity(0, sizeof before, &before) || !bind_to(last) ||
	    sched_setaffinity(0, sizeof before, &before))
		return bad("needs " DEVICE " and 3 CPUs: %s", strerror(errno));
	return reads_while_parked(fd, 0) && send_interrupts(1, false) && answers(fd, SMPARK_PARK, EXDEV) &&
	       answers(fd, SMPARK_UNPARK, EALREADY) && send_interrupts(1, true) && reads_while_parked(fd, 1) &&
	       good("read the disk while parked, from the CPU of its interrupts, and refused when there were two");
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

int main(int argc, char **argv)
{
	const char *name = argc == 2 ? argv[1] : "";
	bool passed;

	if (!strcmp(name, "parking"))
		passed = check_parking();
	else if (!strcmp(name, "faults"))
		passed = check_faults();
	else if (!strcmp(name, "disk"))
		passed = check_disk();
	else if (!strcmp(name, "poweroff"))
		passed = check_poweroff();
	else
		return 2;
	printf("smpark-test: %s: %s: %s\n", name, passed ? "ok" : "failed", detail);
	return passed ? 0 : 1;
}
