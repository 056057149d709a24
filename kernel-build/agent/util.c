// SPDX-License-Identifier: Apache-2.0
/* Time, the end of children, and files that are whole or not there. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ULL + now.tv_nsec / 1000;
}

long now_ms(void)
{
	return now_us() / 1000;
}

void close_end(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void reap_all(long limit_ms)
{
	long end = now_ms() + limit_ms;
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) >= 0 && now_ms() < end)
		if (!pid)
			usleep(10000);
}

int write_all(int fd, const uint8_t *data, size_t size)
{
	while (size) {
		ssize_t put = write(fd, data, size);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return errno;
		data += put;
		size -= put;
	}
	return 0;
}

/* A new file in the folder of `path`; -1 and errno. */
int open_beside(const char *path, char *temporary, size_t room)
{
	const char *name = strrchr(path, '/') + 1;
	struct stat status;

	if (!*name || !strcmp(name, ".") || !strcmp(name, "..") || (!lstat(path, &status) && S_ISDIR(status.st_mode))) {
		errno = EISDIR;
		return -1;
	}
	if (snprintf(temporary, room, "%.*s.agent-XXXXXX", (int)(name - path), path) >= (int)room) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return mkostemp(temporary, O_CLOEXEC);
}

/* Gives the file its owner, mode and name, and closes it; on an error it is removed. 0 or an errno. */
int finish_beside(int fd, const char *temporary, const char *path, uint32_t mode, uint32_t uid, uint32_t gid)
{
	/* In this order: a change of owner takes away the set-user-ID bit. */
	bool good = !fchown(fd, uid, gid) && !fchmod(fd, mode) && !fsync(fd) && !rename(temporary, path);
	int error = good ? 0 : errno;

	close(fd);
	if (error)
		unlink(temporary);
	return error;
}

int put_file(const struct put_file *file)
{
	char temporary[4096];
	int fd = open_beside(file->path, temporary, sizeof temporary), error;

	if (fd < 0)
		return errno;
	error = write_all(fd, file->content, file->size);
	if (!error)
		return finish_beside(fd, temporary, file->path, file->mode, file->uid, file->gid);
	close(fd);
	unlink(temporary);
	return error;
}
