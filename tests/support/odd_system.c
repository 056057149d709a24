/* Answers as other file systems and hostile neighbours do, for one process: loaded by LD_PRELOAD, told by the environment.
 *
 * ODD_PATH          what is concerned: files and folders whose path has this in it (all, where it is empty)
 * ODD_MMAP          errno of mmap(2) of a file: "shared" mappings as with FUSE's direct I/O, or "every" one
 * ODD_FSYNC_FOLDER  errno of fsync(2) of a folder
 * ODD_FSYNC_FILE    errno of fsync(2) of a file
 * ODD_CHMOD         "refuse": EPERM; "ignore": done, and nothing is changed
 * ODD_MODE          octal permission bits that stat(2) gives for each file
 * ODD_READ          errno of reading, once the first 4096 bytes of the file are read
 * ODD_SWAP          "open", "write", "chmod", "fsync", "judge": the moment at which a neighbour puts a link to
 *                   ODD_TARGET in the place of the name that the process uses
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *option(const char *name)
{
	const char *value = getenv(name);
	return value && *value ? value : NULL;
}

static int number(const char *name)
{
	const char *value = option(name);
	return value ? atoi(value) : 0;
}

static const char *path_of(int descriptor, char *path)
{
	char link[64];
	snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
	ssize_t length = readlink(link, path, PATH_MAX - 1);
	path[length > 0 ? length : 0] = 0;
	return path;
}

static int concerned(int descriptor)
{
	char path[PATH_MAX];
	const char *part = option("ODD_PATH");
	return !part || strstr(path_of(descriptor, path), part) != NULL;
}

static int is_folder(int descriptor)
{
	struct stat facts;
	return !REAL(fstat)(descriptor, &facts) && S_ISDIR(facts.st_mode);
}

/* Put a link in the place of `path`, as one can who may write to the folder. */
static void swap(const char *moment, const char *path)
{
	const char *wanted = option("ODD_SWAP"), *part = option("ODD_PATH");
	char link[PATH_MAX + 8];
	if (!wanted || strcmp(wanted, moment) || (part && !strstr(path, part)))
		return;
	snprintf(link, sizeof link, "%s.swap", path);
	if (!symlink(getenv("ODD_TARGET"), link))
		rename(link, path);
}

static void swap_open(const char *moment, int descriptor)
{
	char path[PATH_MAX];
	char *deleted;
	path_of(descriptor, path);
	if ((deleted = strstr(path, " (deleted)")))
		*deleted = 0;
	swap(moment, path);
}

static void whole_path(int folder, const char *name, char *path)
{
	char parent[PATH_MAX];
	if (name[0] == '/')
		snprintf(path, PATH_MAX, "%s", name);
	else if (folder == AT_FDCWD && getcwd(parent, sizeof parent))
		snprintf(path, PATH_MAX, "%.2000s/%.2000s", parent, name);
	else
		snprintf(path, PATH_MAX, "%.2000s/%.2000s", path_of(folder, parent), name);
}

static int opened(int folder, const char *name, int flags, mode_t mode)
{
	char path[PATH_MAX];
	whole_path(folder, name, path);
	if (!(flags & (O_CREAT | O_DIRECTORY)))
		swap("judge", path);
	int descriptor = REAL(openat)(folder, name, flags, mode);
	if (descriptor >= 0 && flags & O_EXCL)
		swap("open", path);
	return descriptor;
}

#define OPEN_MODE \
	va_list arguments; \
	va_start(arguments, flags); \
	mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0; \
	va_end(arguments)

int open(const char *name, int flags, ...)
{
	OPEN_MODE;
	return opened(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...)
{
	OPEN_MODE;
	return opened(AT_FDCWD, name, flags, mode);
}

int openat(int folder, const char *name, int flags, ...)
{
	OPEN_MODE;
	return opened(folder, name, flags, mode);
}

int openat64(int folder, const char *name, int flags, ...)
{
	OPEN_MODE;
	return opened(folder, name, flags, mode);
}

void *mmap(void *address, size_t length, int protection, int flags, int descriptor, off_t offset)
{
	const char *which = option("ODD_MMAP");
	if (which && descriptor >= 0 && concerned(descriptor) && (strcmp(which, "shared") || flags & MAP_SHARED)) {
		errno = ENODEV;
		return MAP_FAILED;
	}
	return REAL(mmap)(address, length, protection, flags, descriptor, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int descriptor, off_t offset)
{
	return mmap(address, length, protection, flags, descriptor, offset);
}

int fsync(int descriptor)
{
	swap_open("fsync", descriptor);
	int error = number(is_folder(descriptor) ? "ODD_FSYNC_FOLDER" : "ODD_FSYNC_FILE");
	if (error && concerned(descriptor)) {
		errno = error;
		return -1;
	}
	return REAL(fsync)(descriptor);
}

static int refused(int *result)
{
	const char *how = option("ODD_CHMOD");
	if (!how)
		return 0;
	*result = strcmp(how, "refuse") ? 0 : -1;
	errno = EPERM;
	return 1;
}

int fchmod(int descriptor, mode_t mode)
{
	int result;
	swap_open("chmod", descriptor);
	return concerned(descriptor) && refused(&result) ? result : REAL(fchmod)(descriptor, mode);
}

int chmod(const char *name, mode_t mode)
{
	int result;
	swap("chmod", name);
	return refused(&result) ? result : REAL(chmod)(name, mode);
}

static int with_mode(int result, struct stat *facts, int is_concerned)
{
	const char *mode = option("ODD_MODE");
	if (!result && mode && is_concerned && S_ISREG(facts->st_mode))
		facts->st_mode = S_IFREG | strtol(mode, NULL, 8);
	return result;
}

int fstat(int descriptor, struct stat *facts)
{
	return with_mode(REAL(fstat)(descriptor, facts), facts, option("ODD_MODE") && concerned(descriptor));
}

int fstat64(int descriptor, struct stat64 *facts)
{
	return fstat(descriptor, (struct stat *)facts);
}

int fstatat(int folder, const char *name, struct stat *facts, int flags)
{
	char path[PATH_MAX];
	const char *part = option("ODD_PATH");
	whole_path(folder, name, path);
	return with_mode(REAL(fstatat)(folder, name, facts, flags), facts, !part || strstr(path, part));
}

int fstatat64(int folder, const char *name, struct stat64 *facts, int flags)
{
	return fstatat(folder, name, (struct stat *)facts, flags);
}

static int unreadable(int descriptor)
{
	errno = number("ODD_READ");
	return errno && concerned(descriptor) && lseek(descriptor, 0, SEEK_CUR) >= 4096;
}

ssize_t read(int descriptor, void *buffer, size_t size)
{
	int is_odd = number("ODD_READ") && concerned(descriptor);
	return unreadable(descriptor) ? -1 : REAL(read)(descriptor, buffer, is_odd && size > 4096 ? 4096 : size);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size)
{
	swap_open("write", out);
	return unreadable(in) || (number("ODD_READ") && concerned(in)) ? -1 : REAL(sendfile64)(out, in, offset, size);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t size)
{
	return sendfile64(out, in, offset, size);
}

ssize_t write(int descriptor, const void *data, size_t size)
{
	if (descriptor > 2)
		swap_open("write", descriptor);
	return REAL(write)(descriptor, data, size);
}
