// SPDX-License-Identifier: GPL-2.0-only
/*
 * smpark: park every CPU but the caller's in WFI, so that a snapshot of a
 * guest with several vCPUs is the same bytes each time.
 *
 * An IPI cannot do this: it may land while a CPU holds a spinlock, and the one
 * CPU left would then spin on that lock for ever. stop_machine() cannot either:
 * it does not return while the CPUs are stopped. So each CPU has a thread of
 * its own, and a CPU is parked by its thread, in a place where the scheduler
 * can run and no spinlock is held.
 *
 * UNPARK must not wait for anything a parked CPU may hold, so no lock is taken
 * before the CPUs are released: all state changes hands by compare-and-swap.
 */
#include <linux/atomic.h>
#include <linux/context_tracking.h>
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/ktime.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/reboot.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/smpboot.h>

#include <asm/barrier.h>
#include <asm/daifflags.h>
#include <asm/sysreg.h>
#include <clocksource/arm_arch_timer.h>

#include "smpark.h"

#define SMPARK_ARRIVAL_MS	1000

enum { SMPARK_RUNNING, SMPARK_CHANGING, SMPARK_PARKED };

static atomic_t smpark_state = ATOMIC_INIT(SMPARK_RUNNING);

/*
 * The open file that parked, and the table of open files of the process that
 * did it through that file; compared, never followed. NULL: nobody has.
 */
static struct file *smpark_owner;
static fl_owner_t smpark_owner_files;

/* The system is going down: parked CPUs would be in its way. */
static bool smpark_going_down;

/*
 * Odd: the CPUs in smpark_targets shall be parked. Even: they shall run.
 * Every PARK has a number of its own, so a thread that comes late to one PARK
 * is never counted for the next.
 */
static u32 smpark_seq;
static cpumask_t smpark_targets;
static DEFINE_PER_CPU(u32, smpark_arrived);	/* the PARK this CPU last came to */
static DEFINE_PER_CPU(struct task_struct *, smpark_threads);

/* The task that parked is kept on its CPU: on any other it would not run. */
static struct task_struct *smpark_caller;
static int smpark_caller_cpu;
static cpumask_t smpark_caller_mask;

static u32 smpark_wanted(unsigned int cpu)
{
	u32 seq = smp_load_acquire(&smpark_seq);

	if (!(seq & 1) || !cpumask_test_cpu(cpu, &smpark_targets))
		return 0;
	return seq;
}

/*
 * RCU must not watch a parked CPU, or it would hold up every grace period and
 * be reported as stalled. To RCU this is an idle task, as the one of
 * play_idle_precise() is. Hence noinstr: nothing here may be traced.
 */
static noinstr void smpark_wait(u32 seq)
{
	current->flags |= PF_IDLE;
	ct_idle_enter();
	while (smp_load_acquire(&smpark_seq) == seq) {
		dsb(sy);
		/*
		 * Ends on a pending interrupt although they are masked, so the
		 * wake-up of smpark_release() is not lost if it comes first.
		 */
		wfi();
	}
	ct_idle_exit();
	current->flags &= ~PF_IDLE;
}

static int smpark_should_run(unsigned int cpu)
{
	u32 seq = smpark_wanted(cpu);

	return seq && seq != __this_cpu_read(smpark_arrived);
}

static void smpark_thread(unsigned int cpu)
{
	unsigned long daif;
	u64 timer;
	u32 seq;

	daif = local_daif_save();
	seq = smpark_wanted(cpu);
	if (seq) {
		/*
		 * The tick would soon be pending for good and turn WFI into a
		 * busy loop. An EL1 guest's tick is the virtual timer.
		 */
		timer = read_sysreg(cntv_ctl_el0);
		write_sysreg(timer | ARCH_TIMER_CTRL_IT_MASK, cntv_ctl_el0);
		isb();

		smp_store_release(this_cpu_ptr(&smpark_arrived), seq);
		/*
		 * Pairs with smpark_release(): either it finds this thread
		 * running and kicks the CPU, or we see the new number.
		 */
		smp_mb();
		smpark_wait(seq);

		write_sysreg(timer, cntv_ctl_el0);
		isb();
	}
	local_daif_restore(daif);
}

static void smpark_thread_setup(unsigned int cpu)
{
	sched_set_fifo(current);
}

static struct smp_hotplug_thread smpark_hotplug_thread = {
	.store			= &smpark_threads,
	.thread_should_run	= smpark_should_run,
	.thread_fn		= smpark_thread,
	.setup			= smpark_thread_setup,
	.thread_comm		= "smpark/%u",
};

static int smpark_pin_caller(void)
{
	int err;

	cpumask_copy(&smpark_caller_mask, current->cpus_ptr);
	smpark_caller_cpu = raw_smp_processor_id();
	err = set_cpus_allowed_ptr(current, cpumask_of(smpark_caller_cpu));
	if (!err)
		smpark_caller = get_task_struct(current);
	return err;
}

static void smpark_unpin_caller(void)
{
	/* Whoever gave it another mask meanwhile had a reason to. */
	if (cpumask_equal(smpark_caller->cpus_ptr, cpumask_of(smpark_caller_cpu)))
		set_cpus_allowed_ptr(smpark_caller, &smpark_caller_mask);
	put_task_struct(smpark_caller);
	smpark_caller = NULL;
}

static void smpark_release(void)
{
	unsigned int cpu;

	smp_store_release(&smpark_seq, smpark_seq + 1);
	smp_mb();	/* pairs with smpark_thread() */
	for_each_cpu(cpu, &smpark_targets)
		kick_process(per_cpu(smpark_threads, cpu));

	/* Only now: both may wait for a task that was on a parked CPU. */
	smpark_unpin_caller();
	cpu_hotplug_enable();
}

static int smpark_gather(void)
{
	ktime_t limit;
	unsigned int cpu;
	u32 seq;
	int err;

	/* Until the release: a CPU that came or went would not be parked. */
	cpu_hotplug_disable();
	err = smpark_pin_caller();
	if (err) {
		cpu_hotplug_enable();
		return err;
	}

	cpumask_andnot(&smpark_targets, cpu_online_mask, cpumask_of(smpark_caller_cpu));
	seq = smpark_seq + 1;
	smp_store_release(&smpark_seq, seq);
	for_each_cpu(cpu, &smpark_targets)
		wake_up_process(per_cpu(smpark_threads, cpu));

	limit = ktime_add_ms(ktime_get(), SMPARK_ARRIVAL_MS);
	for_each_cpu(cpu, &smpark_targets) {
		while (smp_load_acquire(per_cpu_ptr(&smpark_arrived, cpu)) != seq) {
			if (ktime_after(ktime_get(), limit)) {
				smpark_release();
				pr_warn("smpark: CPU %u did not come within %d ms; all run again\n",
					cpu, SMPARK_ARRIVAL_MS);
				return -ETIMEDOUT;
			}
			usleep_range(20, 50);
		}
	}
	return 0;
}

static void smpark_disown(void)
{
	atomic_set(&smpark_state, SMPARK_RUNNING);
	WRITE_ONCE(smpark_owner_files, NULL);
	smp_store_release(&smpark_owner, NULL);
}

static int smpark_unpark(void)
{
	if (atomic_cmpxchg(&smpark_state, SMPARK_PARKED, SMPARK_CHANGING) != SMPARK_PARKED)
		return -EALREADY;
	smpark_release();
	smpark_disown();
	return 0;
}

static int smpark_park(struct file *file)
{
	int err;

	if (cmpxchg(&smpark_owner, NULL, file))
		return -EBUSY;
	WRITE_ONCE(smpark_owner_files, current->files);
	atomic_set(&smpark_state, SMPARK_CHANGING);
	err = smpark_gather();
	if (err) {
		smpark_disown();
		return err;
	}

	/* Full barriers here and in smpark_reboot(): one of the two sees the other. */
	atomic_xchg(&smpark_state, SMPARK_PARKED);
	if (READ_ONCE(smpark_going_down)) {
		smpark_unpark();
		return -ESHUTDOWN;
	}
	return 0;
}

static long smpark_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct file *owner;

	switch (cmd) {
	case SMPARK_PARK:
		return smpark_park(file);
	case SMPARK_UNPARK:
		owner = smp_load_acquire(&smpark_owner);
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
	if (smp_load_acquire(&smpark_owner) == file && READ_ONCE(smpark_owner_files) == files)
		smpark_unpark();
	return 0;
}

/* Where there was no such close left: the process closed the file while its PARK was under way. */
static int smpark_close(struct inode *inode, struct file *file)
{
	if (smp_load_acquire(&smpark_owner) == file)
		smpark_unpark();
	return 0;
}

/* An open file holds the module, so it is never unloaded while CPUs are parked. */
static const struct file_operations smpark_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= smpark_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.flush		= smpark_flush,
	.release	= smpark_close,
	.llseek		= noop_llseek,
};

static struct miscdevice smpark_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "smpark",
	.fops	= &smpark_fops,
	.mode	= 0600,
};

/* Power off and restart move to CPU 0, which may be parked. */
static int smpark_reboot(struct notifier_block *block, unsigned long action, void *data)
{
	WRITE_ONCE(smpark_going_down, true);
	smp_mb();
	smpark_unpark();
	return NOTIFY_DONE;
}

static struct notifier_block smpark_reboot_block = {
	.notifier_call	= smpark_reboot,
};

static int __init smpark_init(void)
{
	int err;

	err = smpboot_register_percpu_thread(&smpark_hotplug_thread);
	if (err)
		return err;
	err = register_reboot_notifier(&smpark_reboot_block);
	if (err)
		goto no_notifier;
	err = misc_register(&smpark_device);
	if (err)
		goto no_device;
	return 0;

no_device:
	unregister_reboot_notifier(&smpark_reboot_block);
no_notifier:
	smpboot_unregister_percpu_thread(&smpark_hotplug_thread);
	return err;
}

static void __exit smpark_exit(void)
{
	misc_deregister(&smpark_device);
	unregister_reboot_notifier(&smpark_reboot_block);
	smpboot_unregister_percpu_thread(&smpark_hotplug_thread);
}

module_init(smpark_init);
module_exit(smpark_exit);

MODULE_DESCRIPTION("Park secondary CPUs for a snapshot of the guest");
MODULE_LICENSE("GPL");
