// SPDX-License-Identifier: Apache-2.0
/*
 * init-oci: PID 1 of a microVM. Makes an overlay root from a read-only image,
 * runs the image's entrypoint in it and powers off when that ends.
 * Files, keys and lines are in docs/guest-contract.md.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <net/if.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define CONTRACT	1
#define CONFIG_FILE	"/init-oci.conf"
#define MODULE_FILE	"/smpark.ko"
#define MODULE_DEVICE	"/dev/smpark"
#define AGENT_FILE	"/supermachine-agent"
#define WORK		"/.init-oci"
#define DEFAULT_PATH	"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define CONFIG_LIMIT	(1024 * 1024)	/* bytes */
#define DEVICE_WAIT_MS	2000
#define CONSOLE_WAIT_MS	1000

struct config {
	const char *lower;	/* block device or folder */
	const char *fstype;	/* of a block device; NULL: try each */
	const char *upper_size;	/* of the tmpfs, as its size= takes it; NULL: the kernel's default */
	const char *hostname;
	const char *user;
	const char *cwd;
	char **argv;		/* NULL at the end, as is env */
	char **env;
	size_t argc, envc;
};

struct identity {
	uid_t uid;
	gid_t gid;
	const char *name;	/* for its further groups; NULL: none */
	const char *home;
};

static const char *const filesystems[] = { "squashfs", "erofs", "ext4" };

/* ---- the console ---- */

/* An open file of our own that never waits; the other programs' waits. */
static int console = STDOUT_FILENO;

/* Ends a Ctrl-S, and whatever else holds up what is written. */
static void start_output(void)
{
	struct termios mode;
	int error = errno;	/* what the next line may be about to tell */

	if (!tcgetattr(console, &mode)) {
		mode.c_iflag &= ~IXON;
		tcsetattr(console, TCSANOW, &mode);
	}
	tcflow(console, TCOON);
	errno = error;
}

/*
 * Until the driver has it all, so that a kernel message does not land within a
 * line; but a console that takes nothing does not keep PID 1 from its duties.
 */
static void write_console(const char *data, size_t size)
{
	const struct timespec pause = { .tv_nsec = 1000 * 1000 };

	for (int waited = 0; waited < CONSOLE_WAIT_MS; waited++) {
		int left;
		ssize_t put = size ? write(console, data, size) : 0;

		if (put < 0 && errno != EAGAIN)
			return;
		if (put > 0) {
			data += put;
			size -= put;
		}
		if (!size && (ioctl(console, TIOCOUTQ, &left) || !left))
			return;
		nanosleep(&pause, NULL);
	}
}

static void say(const char *format, ...)
{
	char line[1024];
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(line, sizeof line - 1, format, args);
	va_end(args);
	if (length < 0)
		return;
	if ((size_t)length > sizeof line - 2)
		length = sizeof line - 2;
	line[length] = '\n';
	write_console(line, length + 1);
}

static _Noreturn void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	say("init-oci: error: no power off (%s); restarting", strerror(errno));
	reboot(RB_AUTOBOOT);
	_exit(1);	/* a kernel panic: the last way not to hang */
}

#define end(...) do { start_output(); say(__VA_ARGS__); power_off(); } while (0)
#define fail(...) end("init-oci: error: " __VA_ARGS__)

/* The kernel opens /dev/console before it starts us only if the initramfs has one. */
static void take_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
	fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0)
		console = fd;
}

/* ---- the configuration ---- */

static char *read_config(void)
{
	int fd = open(CONFIG_FILE, O_RDONLY | O_CLOEXEC);
	char *text;
	size_t size = 0;
	ssize_t got;

	if (fd < 0)
		fail(CONFIG_FILE ": %s; the host puts it into the initramfs", strerror(errno));
	text = malloc(CONFIG_LIMIT + 1);
	if (!text)
		fail(CONFIG_FILE ": no memory");
	while ((got = read(fd, text + size, CONFIG_LIMIT + 1 - size)) > 0)
		size += got;
	if (got < 0)
		fail(CONFIG_FILE ": %s", strerror(errno));
	if (size > CONFIG_LIMIT)
		fail(CONFIG_FILE ": more than %d bytes", CONFIG_LIMIT);
	close(fd);
	text[size] = '\0';
	if (strlen(text) != size)
		fail(CONFIG_FILE ": holds a NUL byte");
	return text;
}

/* In place: "\\" and "\n". False for any other escape. */
static bool unescape(char *value)
{
	char *to = value;

	for (char *from = value; *from; from++) {
		if (*from == '\\') {
			from++;
			if (*from == 'n')
				*to++ = '\n';
			else if (*from == '\\')
				*to++ = '\\';
			else
				return false;
		} else {
			*to++ = *from;
		}
	}
	*to = '\0';
	return true;
}

static void append(char ***list, size_t *count, char *value)
{
	char **longer = realloc(*list, (*count + 2) * sizeof *longer);

	if (!longer)
		fail("no memory");
	longer[(*count)++] = value;
	longer[*count] = NULL;
	*list = longer;
}

static const char *find_env(const struct config *config, const char *name)
{
	size_t length = strlen(name);

	for (size_t i = 0; i < config->envc; i++)
		if (!strncmp(config->env[i], name, length) && config->env[i][length] == '=')
			return config->env[i] + length + 1;
	return NULL;
}

static void add_env(struct config *config, const char *name, const char *value)
{
	char *entry;

	if (asprintf(&entry, "%s=%s", name, value) < 0)
		fail("no memory");
	append(&config->env, &config->envc, entry);
}

static void parse_line(struct config *config, char *line, unsigned number)
{
	const struct { const char *key; const char **value; } single[] = {
		{ "lower", &config->lower },
		{ "fstype", &config->fstype },
		{ "upper_size", &config->upper_size },
		{ "hostname", &config->hostname },
		{ "user", &config->user },
		{ "cwd", &config->cwd },
	};
	char *value = strchr(line, '=');

	if (!value)
		fail(CONFIG_FILE ":%u: expected key=value, found \"%s\"", number, line);
	*value++ = '\0';
	if (!unescape(value))
		fail(CONFIG_FILE ":%u: a backslash is followed by n or another backslash", number);
	if (!strcmp(line, "arg")) {
		append(&config->argv, &config->argc, value);
		return;
	}
	if (!strcmp(line, "env")) {
		if (!strchr(value, '=') || *value == '=')
			fail(CONFIG_FILE ":%u: expected env=NAME=VALUE, found \"%s\"", number, value);
		append(&config->env, &config->envc, value);
		return;
	}
	for (size_t i = 0; i < sizeof single / sizeof *single; i++) {
		if (strcmp(line, single[i].key))
			continue;
		if (*single[i].value)
			fail(CONFIG_FILE ":%u: %s is there twice", number, line);
		if (!*value)
			fail(CONFIG_FILE ":%u: %s is empty", number, line);
		*single[i].value = value;
		return;
	}
	fail(CONFIG_FILE ":%u: unknown key \"%s\"", number, line);
}

static void parse_config(struct config *config)
{
	char *text = read_config(), *line;

	for (unsigned number = 1; (line = strsep(&text, "\n")); number++)
		if (*line && *line != '#')
			parse_line(config, line, number);
	if (!config->lower)
		fail(CONFIG_FILE ": no lower=, the image's block device or folder");
	if (!config->argc)
		fail(CONFIG_FILE ": no arg=, the entrypoint and its arguments");
	if (config->cwd && *config->cwd != '/')
		fail(CONFIG_FILE ": cwd is \"%s\", expected an absolute path", config->cwd);
	if (!config->cwd)
		config->cwd = "/";
	if (!find_env(config, "PATH"))
		add_env(config, "PATH", DEFAULT_PATH);
	if (config->hostname && sethostname(config->hostname, strlen(config->hostname)))
		fail("hostname \"%s\": %s", config->hostname, strerror(errno));
}

/* ---- the stages up to the pivot ---- */

/* Folders are made 0755, whatever the umask we were given. */
static bool make_folders(const char *path)
{
	char copy[PATH_MAX];

	if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy) {
		errno = ENAMETOOLONG;
		return false;
	}
	for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(copy, 0755) && errno != EEXIST)
			return false;
		*slash = '/';
	}
	return !mkdir(copy, 0755) || errno == EEXIST;
}

static void mount_at(const char *type, const char *target, unsigned long flags, const char *options)
{
	if (!make_folders(target))
		fail("cannot make %s: %s", target, strerror(errno));
	if (mount(type, target, type, flags, options))
		fail("cannot mount %s at %s: %s", type, target, strerror(errno));
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

/* A virtio device may be found after PID 1 has started. */
static bool wait_for(const char *path, struct stat *status)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };

	for (int waited = 0; stat(path, status); waited += 10) {
		if (errno != ENOENT || strncmp(path, "/dev/", 5) || waited >= DEVICE_WAIT_MS)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

static const char *mount_device(const struct config *config, const char *target)
{
	for (size_t i = 0; i < sizeof filesystems / sizeof *filesystems; i++) {
		if (config->fstype && strcmp(config->fstype, filesystems[i]))
			continue;
		if (!mount(config->lower, target, filesystems[i], MS_RDONLY, NULL))
			return filesystems[i];
		if (config->fstype)
			fail("lower %s is no %s that can be mounted: %s", config->lower, config->fstype,
			     strerror(errno));
	}
	if (config->fstype)
		fail("fstype is \"%s\", expected squashfs, erofs or ext4", config->fstype);
	fail("lower %s is no squashfs, erofs or ext4 that can be mounted", config->lower);
}

static void make_root(const struct config *config)
{
	const char *lower = config->lower, *kind = "folder";
	char options[PATH_MAX + 128];
	struct stat status;

	if (!wait_for(lower, &status))
		fail("lower %s: %s", lower, strerror(errno));
	if (S_ISBLK(status.st_mode)) {
		lower = WORK "/lower";
		if (!make_folders(lower))
			fail("cannot make %s: %s", lower, strerror(errno));
		kind = mount_device(config, lower);
	} else if (!S_ISDIR(status.st_mode)) {
		fail("lower %s is neither a block device nor a folder", lower);
	} else if (strpbrk(lower, ":,\\")) {
		fail("lower folder \"%s\": overlayfs takes no name with : , or \\ in it", lower);
	}

	if (config->upper_size && strspn(config->upper_size, "0123456789kmgKMG%") != strlen(config->upper_size))
		fail("upper_size is \"%s\", expected a number with k, m, g or %%", config->upper_size);
	snprintf(options, sizeof options, "mode=0755%s%s", config->upper_size ? ",size=" : "",
		 config->upper_size ? config->upper_size : "");
	mount_at("tmpfs", WORK "/rw", 0, options);
	if (!make_folders(WORK "/rw/upper") || !make_folders(WORK "/rw/work"))
		fail("cannot make the upper folders: %s", strerror(errno));
	snprintf(options, sizeof options, "lowerdir=%s,upperdir=" WORK "/rw/upper,workdir=" WORK "/rw/work", lower);
	mount_at("overlay", WORK "/root", 0, options);
	say("init-oci: overlay root on %s (%s)", config->lower, kind);
}

/*
 * The initramfs is the rootfs, which pivot_root(2) refuses to replace: the new
 * root is moved over it, and then entered.
 */
static void pivot(void)
{
	static const char *const kept[] = { "/dev", "/proc", "/sys" };
	char target[64];

	for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
		snprintf(target, sizeof target, WORK "/root%s", kept[i]);
		if (!make_folders(target))
			fail("cannot make %s in the image's root: %s", kept[i], strerror(errno));
		if (mount(kept[i], target, NULL, MS_MOVE, NULL))
			fail("cannot move %s: %s", kept[i], strerror(errno));
	}
	if (chdir(WORK "/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		fail("cannot move the root: %s", strerror(errno));
}

/* What a container expects beside the bare devtmpfs and sysfs. */
static void complete_root(void)
{
	mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5");
	mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_at("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	/* devtmpfs made its own ptmx, which belongs to no mounted devpts */
	unlink("/dev/ptmx");
	if (symlink("pts/ptmx", "/dev/ptmx") || symlink("/proc/self/fd", "/dev/fd") ||
	    symlink("fd/0", "/dev/stdin") || symlink("fd/1", "/dev/stdout") || symlink("fd/2", "/dev/stderr"))
		fail("cannot make the links in /dev: %s", strerror(errno));
}

static void raise_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request))
		say("init-oci: warning: lo stays down: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* ---- programs ---- */

static void unblock_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The file is in the initramfs, out of reach by name once the root has moved. */
static pid_t start_agent(int fd)
{
	char *const argv[] = { "supermachine-agent", NULL };
	char *const env[] = { "PATH=" DEFAULT_PATH, "HOME=/root", NULL };
	pid_t pid = fork();

	if (pid < 0)
		fail("cannot start the agent: %s", strerror(errno));
	if (!pid) {
		setsid();
		unblock_signals();
		umask(0022);
		fexecve(fd, argv, env);
		say("init-oci: warning: " AGENT_FILE ": %s; going on without it", strerror(errno));
		_exit(127);
	}
	return pid;
}

static bool number(const char *text, unsigned *value)
{
	char *end;
	unsigned long long parsed;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	parsed = strtoull(text, &end, 10);
	/* (uid_t)-1 means "no change" to the kernel */
	if (*end || errno || parsed >= UINT_MAX)
		return false;
	*value = parsed;
	return true;
}

/* UID, NAME, either with :GID or :GROUP; names are those of the image. */
static struct identity resolve_user(const char *text)
{
	struct identity who = { .home = "/" };
	struct passwd *entry;
	struct group *group;
	char *user = strdup(text ? text : "0"), *group_name;
	unsigned value;

	if (!user)
		fail("no memory");
	group_name = strchr(user, ':');
	if (group_name)
		*group_name++ = '\0';

	if (number(user, &value)) {
		who.uid = value;
		entry = getpwuid(value);
	} else {
		entry = getpwnam(user);
		if (!entry)
			fail("user \"%s\" is not in the image's /etc/passwd", user);
	}
	if (entry) {
		who.uid = entry->pw_uid;
		who.gid = entry->pw_gid;
		who.home = strdup(entry->pw_dir);
		who.name = strdup(entry->pw_name);
	}
	if (group_name) {
		who.name = NULL;	/* a group that was asked for is the only one */
		if (number(group_name, &value)) {
			who.gid = value;
		} else {
			group = getgrnam(group_name);
			if (!group)
				fail("group \"%s\" is not in the image's /etc/group", group_name);
			who.gid = group->gr_gid;
		}
	}
	free(user);
	return who;
}

/* initgroups() of musl takes no more than 32. */
static bool set_groups_of(const char *name, gid_t gid)
{
	gid_t *groups = NULL;

	for (int count = 32, room = 0; room < count;) {
		room = count;
		groups = realloc(groups, room * sizeof *groups);
		if (!groups)
			return false;
		if (getgrouplist(name, gid, groups, &count) >= 0)
			return !setgroups(count, groups);
	}
	return false;
}

static _Noreturn void become_entrypoint(const struct config *config, const struct identity *who)
{
	const char *step;
	int error;

	setsid();
	ioctl(STDIN_FILENO, TIOCSCTTY, 0);	/* job control where the console is a terminal */
	unblock_signals();
	signal(SIGPIPE, SIG_DFL);
	umask(0022);

	step = "set the groups of";
	if (who->name ? !set_groups_of(who->name, who->gid) : setgroups(0, NULL))
		goto failed;
	step = "set the user of";
	if (setgid(who->gid) || setuid(who->uid))
		goto failed;
	step = "enter the working directory of";
	if (chdir(config->cwd))
		goto failed;
	step = "run";
	environ = config->env;	/* execvp looks for PATH there */
	execvp(config->argv[0], config->argv);
failed:
	error = errno;
	say("init-oci: error: cannot %s the entrypoint %s: %s", step, config->argv[0], strerror(error));
	_exit(error == ENOENT ? 127 : 126);
}

static pid_t start_entrypoint(struct config *config)
{
	struct identity who = resolve_user(config->user);
	pid_t pid;

	if (!find_env(config, "HOME"))
		add_env(config, "HOME", who.home);
	if (!make_folders(config->cwd))
		fail("cannot make the working directory %s: %s", config->cwd, strerror(errno));
	/* The console is root's; the entrypoint may open it again as /dev/stdout. */
	if (fchown(STDOUT_FILENO, who.uid, -1))
		say("init-oci: warning: the console keeps its owner: %s", strerror(errno));
	say("init-oci: entrypoint %s as %u:%u in %s", config->argv[0], who.uid, who.gid, config->cwd);
	pid = fork();
	if (pid < 0)
		fail("cannot fork: %s", strerror(errno));
	if (!pid)
		become_entrypoint(config, &who);
	return pid;
}

static int exit_number(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Reaps whatever ends and hands signals on, until the entrypoint has ended. */
static int supervise(pid_t entrypoint, pid_t agent, const sigset_t *signals)
{
	siginfo_t info;
	int status;
	pid_t pid;

	for (;;) {
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
			if (pid == entrypoint)
				return exit_number(status);
			if (pid == agent) {
				say("init-oci: warning: the agent ended with status %d", exit_number(status));
				agent = -1;	/* the number may be another's from now on */
			}
		}
		if (sigwaitinfo(signals, &info) > 0 && info.si_signo != SIGCHLD)
			kill(entrypoint, info.si_signo);
	}
}

static void block_signals(sigset_t *signals)
{
	static const int handed_on[] = {
		SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT,
	};

	sigemptyset(signals);
	sigaddset(signals, SIGCHLD);
	for (size_t i = 0; i < sizeof handed_on / sizeof *handed_on; i++)
		sigaddset(signals, handed_on[i]);
	sigprocmask(SIG_SETMASK, signals, NULL);
	reboot(RB_DISABLE_CAD);	/* Ctrl-Alt-Del is a SIGINT to us, not a sudden restart */
}

int main(void)
{
	struct config config = { 0 };
	sigset_t signals;
	pid_t agent = -1;
	int agent_fd, status;

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
	block_signals(&signals);
	mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	load_module();
	parse_config(&config);
	agent_fd = open(AGENT_FILE, O_PATH | O_CLOEXEC);
	make_root(&config);
	pivot();
	complete_root();
	raise_loopback();
	if (agent_fd >= 0) {
		agent = start_agent(agent_fd);
		close(agent_fd);
	} else {
		say("init-oci: no " AGENT_FILE ", so no agent");
	}
	status = supervise(start_entrypoint(&config), agent, &signals);
	kill(-1, SIGKILL);
	end("init-oci: exit status %d", status);
}
