// SPDX-License-Identifier: GPL-2.0-only
/*
 * smpark: park every CPU but one in WFI, so that a snapshot of a guest with
 * several vCPUs is the same bytes each time.
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
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/irq.h>
#include <linux/irqnr.h>
#include <linux/ktime.h>
#include <linux/moduleparam.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/smpboot.h>

#include "internal.h"

/*
 * How long the CPUs may take to come. A host that has more to do than it can
 * may leave a virtual CPU alone for seconds, and that is no fault of the guest.
 */
#define SMPARK_ARRIVAL_MS 30000
#define SMPARK_WAIT_LEAST_US 20
#define SMPARK_WAIT_MOST_US 1000

static unsigned int smpark_arrival_ms = SMPARK_ARRIVAL_MS;
module_param_named(arrival_ms, smpark_arrival_ms, uint, 0644);
MODULE_PARM_DESC(arrival_ms, "how long PARK waits for the other CPUs, in milliseconds");

/*
 * The open file that parked, and the table of open files of the process that
 * did it through that file; compared, never followed. NULL: nobody has.
 */
static struct file *smpark_owner;
static fl_owner_t smpark_owner_files;

/* The system is going down: parked CPUs would be in its way. */
static bool smpark_going_down;

/*
 * The page's sequence is odd: these CPUs shall be parked. Even: they shall run.
 * Every PARK has a number of its own, so a thread that comes late to one PARK
 * is never counted for the next.
 */
static cpumask_t smpark_targets;
static u32 smpark_called; /* the sequence at which they may come: every CPU's queues are drained */
static DEFINE_PER_CPU(struct task_struct *, smpark_threads);

/* The task that parked is kept on its CPU: on any other it would not run. */
static struct task_struct *smpark_caller;
static int smpark_caller_cpu;
static cpumask_t smpark_caller_mask;

u32 smpark_sequence(void)
{
	u32 seq = smp_load_acquire(&smpark_page->sequence);

	return seq & 1 ? seq : 0;
}

u32 smpark_wanted(unsigned int cpu)
{
	u32 seq = smpark_sequence();

	return seq && cpumask_test_cpu(cpu, &smpark_targets) ? seq : 0;
}

static int smpark_should_run(unsigned int cpu)
{
	u32 seq = smpark_wanted(cpu);

	return seq && seq == smp_load_acquire(&smpark_called) && seq != READ_ONCE(smpark_page->arrived[cpu]);
}

static void smpark_thread(unsigned int cpu)
{
	u32 seq = smpark_wanted(cpu);

	if (seq)
		smpark_rest(cpu, seq);
}

static void smpark_thread_setup(unsigned int cpu)
{
	sched_set_fifo_low(current);
}

static struct smp_hotplug_thread smpark_hotplug_thread = {
	.store = &smpark_threads,
	.thread_should_run = smpark_should_run,
	.thread_fn = smpark_thread,
	.setup = smpark_thread_setup,
	.thread_comm = "smpark/%u",
};

/*
 * The CPU to which the devices' interrupts go: on any other the caller would
 * wait for ever for what it reads. Where they go to several, nobody can be it.
 */
static int smpark_interrupted_cpu(void)
{
	cpumask_t cpus = CPU_MASK_NONE;
	unsigned int irq;

	for (irq = 0; irq < nr_irqs; irq++) {
		struct irq_data *data = irq_get_irq_data(irq);

		if (data && irqd_is_started(data) && !irqd_is_per_cpu(data))
			cpumask_or(&cpus, &cpus, irq_data_get_effective_affinity_mask(data));
	}
	cpumask_and(&cpus, &cpus, cpu_online_mask);
	if (cpumask_weight(&cpus) > 1)
		return -EXDEV;
	return cpumask_empty(&cpus) ? cpumask_first(cpu_online_mask) : cpumask_first(&cpus);
}

static int smpark_pin_caller(void)
{
	int cpu = smpark_interrupted_cpu(), err;

	if (cpu < 0)
		return cpu;
	cpumask_copy(&smpark_caller_mask, current->cpus_ptr);
	smpark_caller_cpu = cpu;
	err = set_cpus_allowed_ptr(current, cpumask_of(cpu));
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

	smp_store_release(&smpark_page->sequence, smpark_page->sequence + 1);
	smp_mb(); /* pairs with smpark_thread() */
	for_each_cpu(cpu, &smpark_targets) kick_process(per_cpu(smpark_threads, cpu));
	for_each_cpu(cpu, &smpark_targets) smpark_drain_end(cpu);

	/* Only now: both may wait for a task that was on a parked CPU. */
	smpark_unpin_caller();
	cpu_hotplug_enable();
}

static bool smpark_arrived(unsigned int cpu, u32 seq)
{
	return smp_load_acquire(&smpark_page->arrived[cpu]) == seq;
}

/*
 * Until every one of the CPUs is there; the first that is not, or nr_cpu_ids.
 * It sleeps, and ever longer: the CPUs that shall come may need the host's.
 */
static unsigned int smpark_await(const cpumask_t *cpus, bool (*there)(unsigned int cpu, u32 seq), u32 seq,
				 ktime_t limit)
{
	unsigned long wait_us = SMPARK_WAIT_LEAST_US;
	unsigned int cpu;

	for_each_cpu(cpu, cpus)
	{
		while (!there(cpu, seq)) {
			if (ktime_after(ktime_get(), limit))
				return cpu;
			usleep_range(wait_us, 2 * wait_us);
			wait_us = min(2 * wait_us, (unsigned long)SMPARK_WAIT_MOST_US);
		}
	}
	return nr_cpu_ids;
}

/*
 * No CPU comes before all are drained: a worker that runs may first need another
 * one, whose thread would wait for ever on a CPU that has come already.
 */
static unsigned int smpark_call(u32 seq, ktime_t limit)
{
	unsigned int cpu, late;

	for_each_online_cpu(cpu) smpark_drain_start(cpu);
	late = smpark_await(cpu_online_mask, smpark_drained, seq, limit);
	if (late < nr_cpu_ids)
		return late;
	smp_store_release(&smpark_called, seq);
	for_each_cpu(cpu, &smpark_targets) wake_up_process(per_cpu(smpark_threads, cpu));
	return smpark_await(&smpark_targets, smpark_arrived, seq, limit);
}

static int smpark_gather(void)
{
	unsigned int limit_ms = READ_ONCE(smpark_arrival_ms), late;
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
	smpark_page->cpu = smpark_caller_cpu;
	seq = smpark_page->sequence + 1;
	smp_store_release(&smpark_page->sequence, seq);
	late = smpark_call(seq, ktime_add_ms(ktime_get(), limit_ms));
	if (late == nr_cpu_ids)
		return 0;
	smpark_release();
	pr_warn("smpark: CPU %u did not come within %u ms; all run again\n", late, limit_ms);
	return -ETIMEDOUT;
}

static void smpark_disown(void)
{
	WRITE_ONCE(smpark_page->state, SMPARK_RUNNING);
	WRITE_ONCE(smpark_owner_files, NULL);
	smp_store_release(&smpark_owner, NULL);
}

int smpark_unpark(void)
{
	if (cmpxchg(&smpark_page->state, SMPARK_PARKED, SMPARK_CHANGING) != SMPARK_PARKED)
		return -EALREADY;
	smpark_release();
	smpark_disown();
	return 0;
}

int smpark_park(struct file *file)
{
	int err;

	if (cmpxchg(&smpark_owner, NULL, file))
		return -EBUSY;
	WRITE_ONCE(smpark_owner_files, current->files);
	WRITE_ONCE(smpark_page->state, SMPARK_CHANGING);
	err = smpark_gather();
	if (err) {
		smpark_disown();
		return err;
	}

	/* Full barriers here and in smpark_go_down(): one of the two sees the other. */
	xchg(&smpark_page->state, SMPARK_PARKED);
	if (READ_ONCE(smpark_going_down)) {
		smpark_unpark();
		return -ESHUTDOWN;
	}
	return 0;
}

struct file *smpark_owned_by(void)
{
	return smp_load_acquire(&smpark_owner);
}

bool smpark_owned_through(struct file *file, fl_owner_t files)
{
	return smpark_owned_by() == file && READ_ONCE(smpark_owner_files) == files;
}

/* Power off and restart move to CPU 0, which may be parked. */
void smpark_go_down(void)
{
	WRITE_ONCE(smpark_going_down, true);
	smp_mb();
	smpark_unpark();
}

int smpark_threads_init(void)
{
	smpark_drains_init();
	return smpboot_register_percpu_thread(&smpark_hotplug_thread);
}

void smpark_threads_exit(void)
{
	smpark_drains_exit();
	smpboot_unregister_percpu_thread(&smpark_hotplug_thread);
}
