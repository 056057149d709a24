// SPDX-License-Identifier: Apache-2.0
/* What an image finds in its root beside its own files. Every path here is one of the image. */
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define DEV_LIMITS "size=1m,nr_inodes=2048"
#define SHM_KIB (64 * 1024) /* as container runtimes have it */

/* Of the memory that is for files, at most. A file or folder without content takes about a KiB. */
#define SHM_PART 4
#define SHM_INODES_PART 64

static void mount_shm(const struct config *config)
{
	unsigned long long part = files_kib() / SHM_PART;
	char options[128], size[32];

	snprintf(size, sizeof size, "%lluk", part < SHM_KIB ? part : SHM_KIB);
	snprintf(options, sizeof options, "mode=1777,size=%.48s,nr_inodes=%llu",
		 config->shm_size ? config->shm_size : size, files_kib() / SHM_INODES_PART);
	mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC, options);
}

/* All but /proc, which is that of the image's PID namespace. */
void mount_devices(const struct config *config)
{
	static const char *const for_everybody[] = { "/dev/fuse", "/dev/net/tun" };

	mount_at("devtmpfs", "/dev", MS_NOSUID, NULL);
	/* It is there since before us, and takes half of the memory: somebody who mistypes a device's name fills it. */
	if (mount(NULL, "/dev", NULL, MS_REMOUNT | MS_NOSUID, "mode=0755," DEV_LIMITS))
		say("init-oci: warning: /dev keeps its limits: %s", strerror(errno));
	mount_at("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5");
	mount_shm(config);
	mount_at("mqueue", "/dev/mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	/* devtmpfs made its own ptmx, which belongs to no mounted devpts */
	unlink("/dev/ptmx");
	if (symlink("pts/ptmx", "/dev/ptmx") || symlink("/proc/self/fd", "/dev/fd") || symlink("fd/0", "/dev/stdin") ||
	    symlink("fd/1", "/dev/stdout") || symlink("fd/2", "/dev/stderr"))
		fail("cannot make the links in /dev: %s", strerror(errno));
	for (size_t i = 0; i < sizeof for_everybody / sizeof *for_everybody; i++)
		if (chmod(for_everybody[i], 0666) && errno != ENOENT)
			say("init-oci: warning: %s stays root's: %s", for_everybody[i], strerror(errno));
}

/* A share without DAX is slower, and nothing else. */
static const char *mount_share(const struct volume *volume)
{
	unsigned long flags = volume->readonly ? MS_RDONLY : 0;

	if (volume->dax) {
		if (!mount(volume->source, volume->path, "virtiofs", flags, "dax"))
			return "virtiofs, dax";
		say("init-oci: warning: volume %s: no DAX (%s); going on without it", volume->source, strerror(errno));
	}
	return mount(volume->source, volume->path, "virtiofs", flags, NULL) ? NULL : "virtiofs";
}

static void mount_volume(const struct volume *volume)
{
	static const char *const types[] = { "ext4", "xfs", NULL };
	const char *type;
	struct stat status;

	if (*volume->source == '/' && !wait_for(volume->source, &status))
		fail("volume %s: %s", volume->source, strerror(errno));
	if (!make_folders(volume->path))
		fail("cannot make %s: %s", volume->path, strerror(errno));
	if (*volume->source != '/') {
		type = mount_share(volume);
		if (!type)
			fail("volume %s: no virtio-fs share has this tag, or it cannot be mounted: %s", volume->source,
			     strerror(errno));
	} else {
		type = mount_any(volume->source, volume->path, types, volume->readonly ? MS_RDONLY : 0);
		if (!type)
			fail("volume %s is no ext4 or XFS that can be mounted: %s", volume->source, strerror(errno));
		if (!volume->readonly)
			keep_writable(volume->path);
	}
	say("init-oci: volume %s at %s (%s%s)", volume->source, volume->path, type, volume->readonly ? ", ro" : "");
}

void mount_volumes(const struct config *config)
{
	for (size_t i = 0; i < config->volume_count; i++)
		mount_volume(&config->volumes[i]);
}

static bool is_in(const char *path, const char *folder)
{
	size_t length = strlen(folder);

	return !strncmp(path, folder, length) && (!path[length] || path[length] == '/');
}

/* The masks of `below` itself and of what is in it. */
void mask_paths(const struct config *config, const char *below)
{
	for (size_t i = 0; i < config->masks.count; i++) {
		const char *path = config->masks.items[i];
		struct stat status;
		int failed;

		if (!is_in(path, below) || stat(path, &status))
			continue;
		if (S_ISDIR(status.st_mode))
			failed = mount("tmpfs", path, "tmpfs", MS_RDONLY, "mode=0755,nr_inodes=1");
		else
			failed = mount("/dev/null", path, NULL, MS_BIND, NULL);
		if (failed)
			fail("cannot mask %s: %s", path, strerror(errno));
	}
}

/* ---- files ---- */

/* Written beside and renamed, so that a link of the image's is replaced and not followed. */
static void write_file(const char *path, const char *content)
{
	char beside[PATH_MAX];
	size_t size = strlen(content);
	int fd;

	snprintf(beside, sizeof beside, "%s.init-oci", path);
	fd = make_folders("/etc") ? open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
	if (fd < 0 || write(fd, content, size) != (ssize_t)size || rename(beside, path)) {
		say("init-oci: warning: cannot write %s: %s", path, strerror(errno));
		unlink(beside);
	}
	if (fd >= 0)
		close(fd);
}

/* The first word of /etc/hostname. */
static void read_hostname(char *name, size_t room)
{
	int fd = open("/etc/hostname", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, name, room - 1);

	if (fd >= 0)
		close(fd);
	name[got > 0 ? got : 0] = '\0';
	name[strcspn(name, " \t\r\n")] = '\0';
	if (!*name)
		snprintf(name, room, "localhost");
}

static void write_hosts(const char *hostname)
{
	char content[256];
	struct stat status;

	if (!stat("/etc/hosts", &status) && status.st_size)
		return;
	snprintf(content, sizeof content, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n%s%s%s",
		 strcmp(hostname, "localhost") ? "127.0.1.1\t" : "", strcmp(hostname, "localhost") ? hostname : "",
		 strcmp(hostname, "localhost") ? "\n" : "");
	write_file("/etc/hosts", content);
}

void write_names(const struct config *config)
{
	char hostname[65];

	if (config->hostname) {
		char line[sizeof hostname + 1];

		snprintf(hostname, sizeof hostname, "%s", config->hostname);
		snprintf(line, sizeof line, "%s\n", hostname);
		write_file("/etc/hostname", line);
	} else {
		read_hostname(hostname, sizeof hostname);
	}
	if (sethostname(hostname, strlen(hostname)))
		fail("hostname \"%s\": %s", hostname, strerror(errno));
	if (config->hosts)
		write_file("/etc/hosts", config->hosts);
	else
		write_hosts(hostname);
	if (config->resolv_conf)
		write_file("/etc/resolv.conf", config->resolv_conf);
}

/* ---- settings of the kernel ---- */

static bool set(const char *name, const char *value)
{
	char path[PATH_MAX];
	size_t size = strlen(value);
	bool done;
	int fd;

	if (snprintf(path, sizeof path, "/proc/sys/%s", name) >= (int)sizeof path) {
		errno = ENAMETOOLONG;
		return false;
	}
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	done = write(fd, value, size) == (ssize_t)size;
	close(fd);
	return done;
}

void make_settings(const struct config *config)
{
	if (!set("net/ipv4/ip_unprivileged_port_start", "0") || !set("net/ipv4/ping_group_range", "0 2147483647"))
		say("init-oci: warning: the network's settings stay the kernel's: %s", strerror(errno));
	for (size_t i = 0; i < config->setting_count; i++)
		if (!set(config->settings[i].name, config->settings[i].value))
			fail("sysctl %s: %s", config->settings[i].name, strerror(errno));
}
