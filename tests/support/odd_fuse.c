/*
 * odd_fuse FOLDER MOUNTED: the folder FOLDER, seen through FUSE at MOUNTED, with the manners that the environment asks for:
 *
 *   FUSE_DIRECT=1     direct I/O: no shared mapping of a file can be made (ENODEV)
 *   FUSE_READ=N       reading a file beyond its first N bytes is EIO
 *   FUSE_NAME=TEXT    that holds only for files whose path has TEXT in it
 *   FUSE_FSYNCDIR=E   flushing a folder is the error of number E
 *   FUSE_FSYNC=E      flushing a file is the error of number E
 *   FUSE_CHMOD=E      changing a mode is the error of number E; with E = 0 it is ignored
 *   FUSE_MODE=755     the mode of every file, whatever it was made with
 *   FUSE_STEP=2       times in whole steps of so many seconds, as FAT has them
 *   FUSE_NOTHING=1    every inode has the same number, and every time is 0
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int root;

/* The path below the folder that is shown; the folder itself is ".". */
static const char *below(const char *path)
{
	return path[1] ? path + 1 : ".";
}

static int result(long value)
{
	return value < 0 ? -errno : (int)value;
}

static long option(const char *name, long missing)
{
	const char *value = getenv(name);

	return value ? strtol(value, NULL, 10) : missing;
}

static void disguise(struct stat *facts)
{
	const char *mode = getenv("FUSE_MODE");
	long step = option("FUSE_STEP", 0);

	if (mode && S_ISREG(facts->st_mode))
		facts->st_mode = S_IFREG | (mode_t)strtol(mode, NULL, 8);
	if (step) {
		facts->st_mtim = (struct timespec){ facts->st_mtime - facts->st_mtime % step, 0 };
		facts->st_ctim = facts->st_mtim;
	}
	if (getenv("FUSE_NOTHING")) {
		facts->st_ino = 1;
		facts->st_mtim = facts->st_ctim = facts->st_atim = (struct timespec){ 0, 0 };
	}
}

static void *odd_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
	(void)connection;
	config->use_ino = 1;
	config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
	return NULL;
}

static int odd_getattr(const char *path, struct stat *facts, struct fuse_file_info *file)
{
	int done = file ? fstat((int)file->fh, facts) : fstatat(root, below(path), facts, AT_SYMLINK_NOFOLLOW);

	if (!done)
		disguise(facts);
	return result(done);
}

static int odd_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *file,
		       enum fuse_readdir_flags flags)
{
	int descriptor = openat(root, below(path), O_RDONLY | O_DIRECTORY);
	DIR *folder = descriptor < 0 ? NULL : fdopendir(descriptor);

	(void)offset, (void)file, (void)flags;
	if (!folder)
		return -errno;
	for (struct dirent *entry; (entry = readdir(folder));)
		fill(buffer, entry->d_name, NULL, 0, 0);
	closedir(folder);
	return 0;
}

static int opened(struct fuse_file_info *file, int descriptor)
{
	if (descriptor < 0)
		return -errno;
	file->fh = (uint64_t)descriptor;
	file->direct_io = getenv("FUSE_DIRECT") != NULL;
	return 0;
}

static int odd_open(const char *path, struct fuse_file_info *file)
{
	return opened(file, openat(root, below(path), file->flags & ~O_NOFOLLOW));
}

static int odd_create(const char *path, mode_t mode, struct fuse_file_info *file)
{
	return opened(file, openat(root, below(path), file->flags, mode));
}

static int odd_read(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *file)
{
	const char *name = getenv("FUSE_NAME");
	long end = option("FUSE_READ", LONG_MAX);

	if (!name || strstr(path, name)) {
		if (offset >= end)
			return -EIO;
		if (offset + (off_t)size > end)
			size = (size_t)(end - offset);
	}
	return result(pread((int)file->fh, buffer, size, offset));
}

static int odd_write(const char *path, const char *buffer, size_t size, off_t offset, struct fuse_file_info *file)
{
	(void)path;
	return result(pwrite((int)file->fh, buffer, size, offset));
}

static int odd_chmod(const char *path, mode_t mode, struct fuse_file_info *file)
{
	long refusal = option("FUSE_CHMOD", -1);

	(void)file;
	return refusal < 0 ? result(fchmodat(root, below(path), mode, 0)) : -(int)refusal;
}

static int odd_truncate(const char *path, off_t size, struct fuse_file_info *file)
{
	int descriptor = file ? (int)file->fh : openat(root, below(path), O_WRONLY), done;

	done = descriptor < 0 ? -errno : result(ftruncate(descriptor, size));
	if (!file && descriptor >= 0)
		close(descriptor);
	return done;
}

static int odd_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *file)
{
	(void)file;
	return result(utimensat(root, below(path), times, AT_SYMLINK_NOFOLLOW));
}

static int odd_mkdir(const char *path, mode_t mode)
{
	return result(mkdirat(root, below(path), mode));
}

static int odd_rmdir(const char *path)
{
	return result(unlinkat(root, below(path), AT_REMOVEDIR));
}

static int odd_unlink(const char *path)
{
	return result(unlinkat(root, below(path), 0));
}

static int odd_rename(const char *path, const char *new, unsigned int flags)
{
	return flags ? -EINVAL : result(renameat(root, below(path), root, below(new)));
}

static int odd_fsync(const char *path, int only_data, struct fuse_file_info *file)
{
	long refusal = option("FUSE_FSYNC", 0);

	(void)path, (void)only_data;
	return refusal ? -(int)refusal : result(fsync((int)file->fh));
}

static int odd_fsyncdir(const char *path, int only_data, struct fuse_file_info *file)
{
	(void)path, (void)only_data, (void)file;
	return -(int)option("FUSE_FSYNCDIR", 0);
}

static int odd_release(const char *path, struct fuse_file_info *file)
{
	(void)path;
	return result(close((int)file->fh));
}

static const struct fuse_operations operations = {
	.init = odd_init,
	.getattr = odd_getattr,
	.readdir = odd_readdir,
	.open = odd_open,
	.create = odd_create,
	.read = odd_read,
	.write = odd_write,
	.chmod = odd_chmod,
	.truncate = odd_truncate,
	.utimens = odd_utimens,
	.mkdir = odd_mkdir,
	.rmdir = odd_rmdir,
	.unlink = odd_unlink,
	.rename = odd_rename,
	.fsync = odd_fsync,
	.fsyncdir = odd_fsyncdir,
	.release = odd_release,
};

int main(int count, char **arguments)
{
	char *options[] = { arguments[0], "-o", "dev,suid,allow_other,default_permissions", arguments[count - 1],
			    NULL };

	if (count != 3 || (root = open(arguments[1], O_RDONLY | O_DIRECTORY)) < 0) {
		perror("odd_fuse FOLDER MOUNTED");
		return 2;
	}
	umask(0);
	return fuse_main(4, options, &operations, NULL);
}
