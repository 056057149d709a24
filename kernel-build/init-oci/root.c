// SPDX-License-Identifier: Apache-2.0
/* The root: an overlay of the image's layers and of what takes the writes. */
#define _GNU_SOURCE
#include "init-oci.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WORK "/.init-oci"
#define ROOT WORK "/root"
#define RW WORK "/rw"
#define OVERLAY_WORK RW "/work"

/* Of the memory that is for files. A file or folder without content takes about a KiB. */
#define UPPER_PART 2
#define UPPER_INODES_PART 8

static void layer_path(char *path, size_t room, size_t index)
{
	snprintf(path, room, WORK "/layers/%zu", index);
}

static void mount_layer(const struct config *config, size_t index)
{
	static const char *const all[] = { "squashfs", "erofs", "ext4", NULL };
	const char *const named[] = { config->fstype, NULL };
	const char *layer = config->lower.items[index], *kind = "folder";
	char path[64];
	struct stat status;

	layer_path(path, sizeof path, index);
	if (!make_folders(path))
		fail("cannot make %s: %s", path, strerror(errno));
	if (!wait_for(layer, &status))
		fail("lower %s: %s", layer, strerror(errno));
	if (S_ISDIR(status.st_mode)) {
		/* so that overlayfs need not take its name, whatever is in it */
		if (mount(layer, path, NULL, MS_BIND, NULL))
			fail("cannot bind lower %s: %s", layer, strerror(errno));
	} else if (S_ISBLK(status.st_mode)) {
		kind = mount_any(layer, path, config->fstype ? named : all, MS_RDONLY);
		if (!kind && config->fstype)
			fail("lower %s is no %s that can be mounted: %s", layer, config->fstype, strerror(errno));
		if (!kind)
			fail("lower %s is no squashfs, erofs or ext4 that can be mounted", layer);
	} else {
		fail("lower %s is neither a block device nor a folder", layer);
	}
	say("init-oci: layer %s (%s)", layer, kind);
}

/*
 * What overlayfs had at hand when the guest ended. It makes this folder again, and the root read-only if there is
 * no room for it on a full device; so what it took is given back before.
 */
static void remove_last_work(void)
{
	DIR *folder = opendir(OVERLAY_WORK "/work");
	const struct dirent *entry;

	if (!folder)
		return;
	while ((entry = readdir(folder)))
		if (unlinkat(dirfd(folder), entry->d_name, 0) && errno == EISDIR)
			unlinkat(dirfd(folder), entry->d_name, AT_REMOVEDIR);
	closedir(folder);
	rmdir(OVERLAY_WORK "/work");
	sync();
}

static void mount_upper(const struct config *config)
{
	static const char *const types[] = { "ext4", "xfs", NULL };
	struct stat status;

	if (!config->upper) {
		char options[160], size[32], inodes[32];

		snprintf(size, sizeof size, "%lluk", files_kib() / UPPER_PART);
		snprintf(inodes, sizeof inodes, "%llu", files_kib() / UPPER_INODES_PART);
		snprintf(options, sizeof options, "mode=0755,size=%.48s,nr_inodes=%.48s",
			 config->upper_size ? config->upper_size : size,
			 config->upper_inodes ? config->upper_inodes : inodes);
		mount_at("tmpfs", RW, 0, options);
	} else {
		if (!wait_for(config->upper, &status))
			fail("upper %s: %s", config->upper, strerror(errno));
		if (!make_folders(RW))
			fail("cannot make " RW ": %s", strerror(errno));
		if (!mount_any(config->upper, RW, types, 0))
			fail("upper %s is no ext4 or XFS that can be mounted: %s", config->upper, strerror(errno));
		keep_writable(RW);
		remove_last_work();
	}
	if (!make_folders(RW "/upper") || !make_folders(OVERLAY_WORK))
		fail("cannot make the upper folders: %s", strerror(errno));
}

static bool set_option(int fs, const char *name, const char *value)
{
	return !syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, name, value, 0);
}

/* The calls that came after mount(2), because that takes one page of options: too little for many layers. */
static void mount_overlay(size_t layers)
{
	int fs = (int)syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC), mounted;
	bool good = fs >= 0;
	char path[64];

	if (!make_folders(ROOT))
		fail("cannot make " ROOT ": %s", strerror(errno));
	/* the topmost comes first */
	for (size_t i = layers; good && i-- > 0;) {
		layer_path(path, sizeof path, i);
		good = set_option(fs, "lowerdir+", path);
	}
	good = good && set_option(fs, "source", "overlay") && set_option(fs, "upperdir", RW "/upper") &&
	       set_option(fs, "workdir", OVERLAY_WORK);
	if (!good || syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		fail("cannot make an overlay of %zu layers: %s", layers, strerror(errno));
	mounted = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
	if (mounted < 0 || syscall(SYS_move_mount, mounted, "", AT_FDCWD, ROOT, MOVE_MOUNT_F_EMPTY_PATH))
		fail("cannot mount the overlay: %s", strerror(errno));
	close(mounted);
	close(fs);
}

void make_root(const struct config *config)
{
	for (size_t i = 0; i < config->lower.count; i++)
		mount_layer(config, i);
	mount_upper(config);
	mount_overlay(config->lower.count);
	say("init-oci: overlay root on %zu layers, upper %s", config->lower.count,
	    config->upper ? config->upper : "tmpfs");
}

/*
 * The initramfs is the rootfs, which pivot_root(2) refuses to replace: the new
 * root is moved over it, and then entered.
 */
void enter_root(void)
{
	static const char *const old[] = { "/dev", "/proc", "/sys" };

	for (size_t i = 0; i < sizeof old / sizeof *old; i++)
		umount2(old[i], MNT_DETACH);
	if (chdir(ROOT) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		fail("cannot move the root: %s", strerror(errno));
}
