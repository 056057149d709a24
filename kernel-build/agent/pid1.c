// SPDX-License-Identifier: Apache-2.0
/*
 * The agent as PID 1, in a guest that has no init-oci. It makes what every program expects of a root, keeps one agent
 * running as its child, reaps what ends, hands signals on to the commands of callers, and ends the guest.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTRACT 2
#define AGAIN_MS 1000 /* between two starts of the agent */
#define END_MS 1000 /* for processes that were killed; one that waits for a device may not end at all */
#define ANSWER_US 200000 /* for a POWER_OFF's answer to reach the caller */
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define CHILDREN 4096

static const int handed_on[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT };

static pid_t agent; /* 0: it does not run */
static long started_ms;

/* ---- what nobody has made before us ---- */

static const struct {
	const char *path, *type, *options;
	unsigned long flags;
} mounts[] = {
	{ "/dev", "devtmpfs", "mode=0755", MS_NOSUID },
	{ "/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "/dev/pts", "devpts", "gid=5,mode=0620,ptmxmode=0666", MS_NOSUID | MS_NOEXEC },
	{ "/dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV },
	{ "/dev/mqueue", "mqueue", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "/sys/fs/cgroup", "cgroup2", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
};

static const char *const links[][2] = {
	{ "/dev/fd", "/proc/self/fd" },	      { "/dev/stdin", "/proc/self/fd/0" }, { "/dev/stdout", "/proc/self/fd/1" },
	{ "/dev/stderr", "/proc/self/fd/2" }, { "/dev/ptmx", "pts/ptmx" },
};

static bool is_mounted(const char *path)
{
	char parent[64];
	struct stat here, above;

	snprintf(parent, sizeof parent, "%s/..", path);
	return !stat(path, &here) && !stat(parent, &above) && here.st_dev != above.st_dev;
}

static void mount_missing(void)
{
	bool own_terminals = !is_mounted("/dev/pts");

	for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++) {
		const char *path = mounts[i].path;

		if (is_mounted(path))
			continue;
		mkdir(path, 0755);
		if (mount(mounts[i].type, path, mounts[i].type, mounts[i].flags, mounts[i].options))
			fprintf(stderr, "supermachine-agent: warning: %s on %s: %s\n", mounts[i].type, path,
				strerror(errno));
	}
	for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
		if (own_terminals && !strcmp(links[i][0], "/dev/ptmx"))
			unlink(links[i][0]); /* devtmpfs has a device there, for whoever mounts devpts elsewhere */
		if (symlink(links[i][1], links[i][0]) && errno != EEXIST)
			fprintf(stderr, "supermachine-agent: warning: %s: %s\n", links[i][0], strerror(errno));
	}
}

static void raise_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request))
		fprintf(stderr, "supermachine-agent: warning: lo stays down: %s\n", strerror(errno));
	close_end(&fd);
}

/* Started without a file open, the standard files are /dev/null by now: the console takes their place. */
static void take_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);

	for (int standard = STDIN_FILENO; fd >= 0 && standard <= STDERR_FILENO; standard++)
		dup2(fd, standard);
	close_end(&fd);
}

/* ---- the end of the guest ---- */

/*
 * The kernel for x86_64 has no ACPI, and so no power off: Linux would turn one into a halt that never ends. A restart
 * ends the guest there, because its host does not start it again.
 */
void end_machine(void)
{
#ifdef __x86_64__
	reboot(RB_AUTOBOOT);
#else
	reboot(RB_POWER_OFF);
#endif
}

/* What a device has mounted goes to that device, and is clean there. */
static void make_read_only(void)
{
	FILE *table = setmntent("/proc/self/mounts", "re");
	struct mntent *entry;

	while (table && (entry = getmntent(table)))
		if (!strncmp(entry->mnt_fsname, "/dev/", 5))
			mount(NULL, entry->mnt_dir, NULL, MS_REMOUNT | MS_RDONLY, NULL);
	if (table)
		endmntent(table);
}

static _Noreturn void end_guest(void)
{
	kill(-1, SIGKILL);
	reap_all(END_MS);
	sync();
	make_read_only();
	fprintf(stderr, "supermachine-agent: powering off\n");
	end_machine();
	_exit(1); /* the kernel panics, and a panic restarts */
}

/* ---- the commands of callers: each is a child of a child of the agent ---- */

static size_t children_of(pid_t parent, pid_t *children)
{
	char path[64];
	FILE *file;
	size_t count = 0;

	snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)parent, (int)parent);
	file = fopen(path, "re");
	while (file && count < CHILDREN && fscanf(file, "%d", &children[count]) == 1)
		count++;
	if (file)
		fclose(file);
	return count;
}

/* How many commands got the signal; 0 counts them. `first` becomes the oldest of them. */
static size_t signal_commands(int number, pid_t *first)
{
	static pid_t workers[CHILDREN], commands[CHILDREN];
	size_t signalled = 0, worker_count = agent ? children_of(agent, workers) : 0;

	for (size_t i = 0; i < worker_count; i++) {
		size_t count = children_of(workers[i], commands);

		for (size_t j = 0; j < count; j++)
			if (!kill(commands[j], number) && !signalled++)
				*first = commands[j];
	}
	return signalled;
}

/* ---- the agent, and what it asks ---- */

static _Noreturn void become_agent(int fd)
{
	sigset_t none;

	/* Nothing of PID 1's stays open here. */
	if (fd == 3 ? fcntl(fd, F_SETFD, FD_CLOEXEC) : dup3(fd, 3, O_CLOEXEC) < 0)
		_exit(1);
	syscall(SYS_close_range, 4, ~0U, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	clearenv();
	setenv("PATH", DEFAULT_PATH, 1);
	setenv("HOME", "/root", 1);
	init_announce("3");
	_exit(serve());
}

/* Our end of the socket to it, or -1. */
static int start_agent(void)
{
	int ends[2];

	started_ms = now_ms();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return -1;
	agent = fork();
	if (!agent)
		become_agent(ends[1]);
	close(ends[1]);
	if (agent < 0) {
		agent = 0;
		close_end(&ends[0]);
	}
	return ends[0];
}

/* The same packets as init-oci's; the workload is whatever callers run. */
static void answer(int fd)
{
	uint8_t request[8], reply[20] = { 0 };
	uint32_t what, error = 0;
	pid_t first = 0;
	size_t running;

	if (recv(fd, request, sizeof request, MSG_DONTWAIT) != sizeof request)
		return;
	what = get_u32(request);
	if (what == INIT_SIGNAL && (get_u32(request + 4) < 1 || get_u32(request + 4) >= _NSIG))
		error = EINVAL;
	else if (what == INIT_SIGNAL)
		error = signal_commands(get_u32(request + 4), &first) ? 0 : ESRCH;
	else if (what == INIT_GO)
		error = EALREADY;
	else if (what != INIT_STATUS && what != INIT_POWER_OFF)
		error = EINVAL;
	running = signal_commands(0, &first);
	put_u32(reply, error);
	put_u32(reply + 4, running ? STATE_RUNNING : STATE_UNKNOWN);
	put_u32(reply + 16, running ? first : 0);
	send(fd, reply, sizeof reply, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (what == INIT_POWER_OFF) {
		usleep(ANSWER_US);
		end_guest();
	}
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != agent)
			continue;
		agent = 0;
		fprintf(stderr, "supermachine-agent: warning: the agent ended with status %d; starting it again\n",
			WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	}
}

static void take_signals(int signals)
{
	struct signalfd_siginfo info;
	pid_t first;

	while (read(signals, &info, sizeof info) == sizeof info) {
		if (info.ssi_signo == SIGCHLD)
			reap();
		else if (info.ssi_signo == SIGPWR)
			end_guest();
		else
			signal_commands(info.ssi_signo, &first);
	}
}

static int take_signals_as_files(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGPWR);
	for (size_t i = 0; i < sizeof handed_on / sizeof *handed_on; i++)
		sigaddset(&set, handed_on[i]);
	sigprocmask(SIG_SETMASK, &set, NULL);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

int be_pid1(void)
{
	struct pollfd files[2];

	mount_missing();
	take_console();
	raise_loopback();
	reboot(RB_DISABLE_CAD); /* Ctrl-Alt-Del is a SIGINT to us, not a sudden restart */
	fprintf(stderr, "supermachine-agent: PID 1 of guest contract %d\n", CONTRACT);
	files[0] = (struct pollfd){ take_signals_as_files(), POLLIN, 0 };
	files[1] = (struct pollfd){ -1, POLLIN, 0 };
	for (;;) {
		long wait = -1;

		if (!agent) {
			wait = started_ms ? started_ms + AGAIN_MS - now_ms() : 0;
			if (wait <= 0) {
				close_end(&files[1].fd);
				files[1].fd = start_agent();
				wait = agent ? -1 : AGAIN_MS;
			}
		}
		files[0].revents = files[1].revents = 0;
		poll(files, 2, wait);
		if (files[0].revents)
			take_signals(files[0].fd);
		if (files[1].revents & POLLIN)
			answer(files[1].fd);
		else if (files[1].revents)
			close_end(&files[1].fd); /* the agent has ended; SIGCHLD comes */
	}
}
