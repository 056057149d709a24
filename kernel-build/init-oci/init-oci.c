// SPDX-License-Identifier: Apache-2.0
/*
 * init-oci: PID 1 of a microVM. Makes an overlay root from the layers of an
 * image, runs the image's entrypoint in it and powers off when that ends.
 * Files, keys and lines are in docs/guest-contract.md.
 */
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CONTRACT 2
#define MODULE_FILE "/supermachine-smpark.ko"
#define MODULE_DEVICE "/dev/smpark"
#define OPEN_FILES 1048576

static char *read_config(size_t *size)
{
	int fd = open(CONFIG_FILE, O_RDONLY | O_CLOEXEC);
	char *text;
	ssize_t got;

	if (fd < 0)
		fail(CONFIG_FILE ": %s; the host puts it into the initramfs", strerror(errno));
	text = malloc(CONFIG_LIMIT + 2);
	if (!text)
		fail(CONFIG_FILE ": no memory");
	for (*size = 0; (got = read(fd, text + *size, CONFIG_LIMIT + 1 - *size)) > 0; *size += got)
		;
	if (got < 0)
		fail(CONFIG_FILE ": %s", strerror(errno));
	close(fd);
	text[*size] = '\0';
	return text;
}

static void load_module(void)
{
	int fd = open(MODULE_FILE, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		say("init-oci: warning: " MODULE_FILE ": %s; going on without it", strerror(errno));
		return;
	}
	if (syscall(SYS_finit_module, fd, "", 0))
		say("init-oci: warning: " MODULE_FILE " refused: %s; going on without it", strerror(errno));
	else if (access(MODULE_DEVICE, F_OK))
		say("init-oci: warning: " MODULE_FILE " loaded, but no " MODULE_DEVICE "; going on without it");
	else
		say("init-oci: " MODULE_FILE " loaded, " MODULE_DEVICE " is there");
	close(fd);
}

static void block_signals(void)
{
	static const int taken[] = {
		SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT,
	};
	sigset_t signals;

	sigemptyset(&signals);
	for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
		sigaddset(&signals, taken[i]);
	sigprocmask(SIG_SETMASK, &signals, NULL);
	reboot(RB_DISABLE_CAD); /* Ctrl-Alt-Del is a SIGINT to us, not a sudden restart */
}

static void prepare_launch(struct launch *launch, struct config *config)
{
	const char *prefixes[STREAMS] = { config->stdout_prefix, config->stderr_prefix };
	static char container[] = "container=oci";
	char *home;

	launch->config = config;
	launch->who = resolve_user(config);
	if (!config_find_env(config, "HOME"))
		if (asprintf(&home, "HOME=%s", launch->who.home) < 0 || !config_append(&config->env, home))
			fail("no memory");
	/* by which systemd knows where it is */
	if (config->pid1 && !config_find_env(config, "container") && !config_append(&config->env, container))
		fail("no memory");
	if (!make_folders(config->cwd))
		fail("cannot make the working directory %s: %s", config->cwd, strerror(errno));
	/* The entrypoint may open what it writes to again, as /dev/stdout. */
	if (config->tty && fchown(STDOUT_FILENO, launch->who.uid, -1))
		say("init-oci: warning: the console keeps its owner: %s", strerror(errno));
	for (int i = 0; i < STREAMS; i++) {
		launch->streams[i] = config->tty ? -1 : open_stream(i, prefixes[i]);
		if (!config->tty && (launch->streams[i] < 0 || fchown(launch->streams[i], launch->who.uid, -1)))
			fail("cannot make a pipe for the entrypoint: %s", strerror(errno));
	}
}

static void read_and_parse(struct config *config)
{
	char error[512];
	size_t size;
	char *text = read_config(&size);

	if (!config_parse(text, size, config, error, sizeof error))
		fail("%s", error);
}

int main(void)
{
	const struct rlimit files = { OPEN_FILES, OPEN_FILES };
	static struct config config;
	static struct launch launch;
	int agent_file, socket;
	pid_t namespace;

	if (getpid() != 1) {
		fprintf(stderr, "init-oci: runs only as PID 1 of a microVM\n");
		return 2;
	}
	umask(0);
	prctl(PR_SET_NAME, "init-oci");
	/* The kernel may have mounted it (CONFIG_DEVTMPFS_MOUNT); once more does no harm. */
	mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	take_console();
	say("init-oci: guest contract %d", CONTRACT);
	block_signals();
	setrlimit(RLIMIT_NOFILE, &files);
	mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	learn_to_power_off();
	load_module();
	read_and_parse(&config);
	agent_file = open_agent();
	if (agent_file < 0 && config.hold)
		fail("hold=exec: there is no /supermachine-agent that could be told to go on");
	make_root(&config);
	enter_root();
	mount_devices(&config);
	take_console();
	mount_volumes(&config);
	write_names(&config);
	prepare_launch(&launch, &config);
	namespace = start_namespace(&launch, &socket);
	for (int i = 0; i < STREAMS; i++)
		if (launch.streams[i] >= 0)
			close(launch.streams[i]);
	make_settings(&config);
	configure_network(&config);
	mask_paths(&config, "");
	if (agent_file < 0)
		say("init-oci: no /supermachine-agent, so no agent");
	supervise(&launch, agent_file, namespace, socket);
}
