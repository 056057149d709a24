// SPDX-License-Identifier: GPL-2.0-only
/*
 * Work that is queued on a CPU when it is parked would wait for the release,
 * and whoever queues it again meanwhile would find it queued: the packets of
 * vsock would stand still, and with them the call that lets the CPUs go. So a
 * work item of ours goes behind what is queued. When its turn comes, its worker
 * becomes more urgent than the thread that parks, and that thread more urgent
 * than other tasks: the worker goes on until nothing is queued any more.
 *
 * On the CPU that runs on it only sees to it that a worker is to spare there:
 * one that had to be made later might have its thread on a parked CPU.
 */
#include <linux/compiler.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/workqueue.h>

#include "internal.h"

/* A CPU has two pools of workers. */
enum { SMPARK_NORMAL, SMPARK_HIGH, SMPARK_POOLS };

struct smpark_drain {
	struct work_struct work;
	unsigned int cpu;
	int nice; /* of the pool's workers */
	u32 done; /* the sequence for which it last ran */
	struct task_struct *worker; /* urgent now */
};

static DEFINE_PER_CPU(struct smpark_drain[SMPARK_POOLS], smpark_drains);

static void smpark_calm(struct smpark_drain *drain)
{
	struct task_struct *worker = xchg(&drain->worker, NULL);

	if (!worker)
		return;
	sched_set_normal(worker, drain->nice);
	put_task_struct(worker);
}

static void smpark_drain_work(struct work_struct *work)
{
	struct smpark_drain *drain = container_of(work, struct smpark_drain, work);
	u32 seq = smpark_sequence();

	if (!seq)
		return;
	if (smpark_wanted(drain->cpu) == seq) {
		sched_set_fifo(current);
		xchg(&drain->worker, get_task_struct(current));
		/* Either the release finds the worker, or we see that it was there. */
		if (smpark_wanted(drain->cpu) != seq)
			smpark_calm(drain);
	}
	smp_store_release(&drain->done, seq);
}

void smpark_drain_start(unsigned int cpu)
{
	queue_work_on(cpu, system_wq, &per_cpu(smpark_drains, cpu)[SMPARK_NORMAL].work);
	queue_work_on(cpu, system_highpri_wq, &per_cpu(smpark_drains, cpu)[SMPARK_HIGH].work);
}

bool smpark_drained(unsigned int cpu, u32 seq)
{
	struct smpark_drain *drains = per_cpu(smpark_drains, cpu);

	return smp_load_acquire(&drains[SMPARK_NORMAL].done) == seq &&
	       smp_load_acquire(&drains[SMPARK_HIGH].done) == seq;
}

void smpark_drain_end(unsigned int cpu)
{
	for (int pool = 0; pool < SMPARK_POOLS; pool++)
		smpark_calm(&per_cpu(smpark_drains, cpu)[pool]);
}

void smpark_drains_init(void)
{
	unsigned int cpu;

	for_each_possible_cpu(cpu) for (int pool = 0; pool < SMPARK_POOLS; pool++)
	{
		per_cpu(smpark_drains, cpu)[pool].cpu = cpu;
		per_cpu(smpark_drains, cpu)[pool].nice = pool == SMPARK_HIGH ? MIN_NICE : 0;
		INIT_WORK(&per_cpu(smpark_drains, cpu)[pool].work, smpark_drain_work);
	}
}

void smpark_drains_exit(void)
{
	unsigned int cpu;

	for_each_possible_cpu(cpu) for (int pool = 0; pool < SMPARK_POOLS; pool++)
		cancel_work_sync(&per_cpu(smpark_drains, cpu)[pool].work);
}
