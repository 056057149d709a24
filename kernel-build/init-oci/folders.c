// SPDX-License-Identifier: Apache-2.0
/* Folders, devices and mounts. */
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#define LINKS_LIMIT 16 /* that lead nowhere, one through another */

static bool make_folders_through(const char *path, int links);

/* `path` is a link to something that is not there: that is made. */
static bool make_target(const char *path, int links)
{
	char target[PATH_MAX], whole[PATH_MAX];
	ssize_t size = readlink(path, target, sizeof target - 1);
	const char *slash = strrchr(path, '/');
	int length;

	if (size < 0)
		return false;
	if (links >= LINKS_LIMIT) {
		errno = ELOOP;
		return false;
	}
	target[size] = '\0';
	length = snprintf(whole, sizeof whole, "%.*s/%s", *target == '/' ? 0 : (int)(slash - path), path, target);
	if (length >= (int)sizeof whole) {
		errno = ENAMETOOLONG;
		return false;
	}
	return make_folders_through(whole, links + 1);
}

static bool make_folder(const char *path, int links)
{
	struct stat status;

	/* whatever the umask we were given */
	if (!mkdir(path, 0755))
		return true;
	if (errno != EEXIST)
		return false;
	if (stat(path, &status))
		return errno == ENOENT && make_target(path, links);
	if (!S_ISDIR(status.st_mode))
		errno = ENOTDIR;
	return S_ISDIR(status.st_mode);
}

static bool make_folders_through(const char *path, int links)
{
	char copy[PATH_MAX];

	if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy) {
		errno = ENAMETOOLONG;
		return false;
	}
	/* Those above it are there most of the time. */
	if (make_folder(copy, links))
		return true;
	if (errno != ENOENT)
		return false;
	for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (!make_folder(copy, links))
			return false;
		*slash = '/';
	}
	return make_folder(copy, links);
}

/* The folders of an absolute path that are missing. */
bool make_folders(const char *path)
{
	return make_folders_through(path, 0);
}

/* A virtio device may be found after PID 1 has started. */
bool wait_for(const char *path, struct stat *status)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };

	for (int waited = 0; stat(path, status); waited += 10) {
		if (errno != ENOENT || strncmp(path, "/dev/", 5) || waited >= DEVICE_WAIT_MS)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

void mount_at(const char *type, const char *target, unsigned long flags, const char *options)
{
	if (!make_folders(target))
		fail("cannot make %s: %s", target, strerror(errno));
	if (mount(type, target, type, flags, options))
		fail("cannot mount %s at %s: %s", type, target, strerror(errno));
}

/* The type it was mounted as, or NULL, and errno is that of the last one. */
const char *mount_any(const char *device, const char *target, const char *const *types, unsigned long flags)
{
	for (; *types; types++)
		if (!mount(device, target, *types, flags | MS_SILENT, NULL))
			return *types;
	return NULL;
}

/* ---- what has to be whole after the power off ---- */

/* Open folders: nothing else can name a file system that the image has hidden. */
static struct {
	int *items;
	size_t count;
} writable;

void keep_writable(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int *longer = reallocarray(writable.items, writable.count + 1, sizeof *longer);

	if (fd < 0 || !longer)
		fail("cannot keep %s: %s", path, strerror(errno));
	writable.items = longer;
	longer[writable.count++] = fd;
}

void make_read_only(void)
{
	sync();
	for (size_t i = 0; i < writable.count; i++)
		/* EINVAL: the image has unmounted it */
		if (fchdir(writable.items[i]) ||
		    (mount(NULL, ".", NULL, MS_REMOUNT | MS_RDONLY, NULL) && errno != EINVAL))
			say("init-oci: warning: a volume stays writable to the end: %s", strerror(errno));
}
