// SPDX-License-Identifier: Apache-2.0
/* The end of the guest: of its processes, and of itself. */
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHILDREN_WAIT_MS 1000 /* for those that were killed */
#define DEVICE_TREE "/sys/firmware/devicetree/base"
#define USUAL_PSCI DEVICE_TREE "/psci/compatible"
#define TREE_DEPTH 32

static bool no_power_off;

void pause_for(int ms)
{
	const struct timespec pause = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	nanosleep(&pause, NULL);
}

/* All but PID 1, and everything they wrote is on the console. */
void kill_the_rest(void)
{
	kill(-1, SIGKILL);
	for (int waited = 0; waited < CHILDREN_WAIT_MS; waited += 10) {
		pid_t pid;

		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		if (pid < 0)
			break;
		pause_for(10);
	}
	start_output();
	finish_streams(true);
}

static bool is_psci(const char *path)
{
	char compatible[256];
	bool found = false;
	ssize_t size;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	size = read(fd, compatible, sizeof compatible - 1);
	close(fd);
	if (size < 0)
		return false;
	compatible[size] = '\0';
	for (ssize_t at = 0; at < size; at += (ssize_t)strlen(compatible + at) + 1)
		found |= !strcmp(compatible + at, "arm,psci-0.2") || !strcmp(compatible + at, "arm,psci-1.0");
	return found;
}

/* For nftw(3), which goes on while this returns 0. */
static int look_for_psci(const char *path, const struct stat *status, int type, struct FTW *place)
{
	(void)status;
	return type == FTW_F && !strcmp(path + place->base, "compatible") && is_psci(path);
}

/*
 * The kernel does not tell whether it can power off: asked to when it cannot, it halts for good (kernel/reboot.c).
 * What it can do it learns from the device tree, at whatever depth; a PSCI of version 0.1 has no such call. A walk
 * through a tree of many devices takes more instructions than all else that init-oci does, so the usual place is first.
 */
void learn_to_power_off(void)
{
	no_power_off = !is_psci(USUAL_PSCI) && !nftw(DEVICE_TREE, look_for_psci, TREE_DEPTH, FTW_PHYS);
}

_Noreturn void restart(void)
{
	sync();
	reboot(RB_AUTOBOOT);
	_exit(1); /* a kernel panic: the last way not to hang */
}

_Noreturn void power_off(void)
{
	sync();
	if (no_power_off) {
		say("init-oci: error: no power off in the device tree; restarting");
	} else {
		reboot(RB_POWER_OFF);
		say("init-oci: error: no power off (%s); restarting", strerror(errno));
	}
	restart();
}
