// SPDX-License-Identifier: GPL-2.0-only
/* /dev/smpark, and the module's beginning and end. */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/reboot.h>

#include "internal.h"

static long smpark_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct file *owner;

	switch (cmd) {
	case SMPARK_PARK:
		return smpark_park(file);
	case SMPARK_UNPARK:
		owner = smpark_owned_by();
		if (owner != file)
			return owner ? -EPERM : -EALREADY;
		return smpark_unpark();
	default:
		return -ENOTTY;
	}
}

/*
 * Any close() of the process that parked, as with POSIX locks: were it the last
 * close of the file alone, a child that has the file too and is on a parked CPU
 * would keep all parked for good after the process has died.
 */
static int smpark_flush(struct file *file, fl_owner_t files)
{
	if (smpark_owned_through(file, files))
		smpark_unpark();
	return 0;
}

/* Where there was no such close left: the process closed the file while its PARK was under way. */
static int smpark_close(struct inode *inode, struct file *file)
{
	if (smpark_owned_by() == file)
		smpark_unpark();
	return 0;
}

/* An open file holds the module, so it is never unloaded while CPUs are parked. */
static const struct file_operations smpark_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = smpark_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.flush = smpark_flush,
	.release = smpark_close,
	.llseek = noop_llseek,
};

static struct miscdevice smpark_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "smpark",
	.fops = &smpark_fops,
	.mode = 0600,
};

static int smpark_reboot(struct notifier_block *block, unsigned long action, void *data)
{
	smpark_go_down();
	return NOTIFY_DONE;
}

static struct notifier_block smpark_reboot_block = {
	.notifier_call = smpark_reboot,
};

static int __init smpark_init(void)
{
	int err;

	err = smpark_page_init();
	if (err)
		return err;
	err = smpark_threads_init();
	if (err)
		goto no_threads;
	err = register_reboot_notifier(&smpark_reboot_block);
	if (err)
		goto no_notifier;
	err = misc_register(&smpark_device);
	if (err)
		goto no_device;
	smpark_page_announce();
	return 0;

no_device:
	unregister_reboot_notifier(&smpark_reboot_block);
no_notifier:
	smpark_threads_exit();
no_threads:
	smpark_page_exit();
	return err;
}

static void __exit smpark_exit(void)
{
	misc_deregister(&smpark_device);
	unregister_reboot_notifier(&smpark_reboot_block);
	smpark_threads_exit();
	smpark_page_exit();
}

module_init(smpark_init);
module_exit(smpark_exit);

MODULE_DESCRIPTION("Park secondary CPUs for a snapshot of the guest");
MODULE_LICENSE("GPL");
