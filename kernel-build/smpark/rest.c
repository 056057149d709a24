// SPDX-License-Identifier: GPL-2.0-only
/*
 * A parked CPU. It sleeps in WFI with interrupts masked, and what it has in
 * its registers there is the same whenever it is looked at: they are cleared
 * first, and an interrupt that wakes it is served, so that it sleeps again.
 */
#include <linux/compiler.h>
#include <linux/context_tracking.h>
#include <linux/irqflags.h>
#include <linux/preempt.h>
#include <linux/sched.h>

#include <asm/barrier.h>
#include <asm/cpufeature.h>
#include <asm/daifflags.h>
#include <asm/neon.h>
#include <asm/sysreg.h>
#include <clocksource/arm_arch_timer.h>

#include "internal.h"

/* An EL1 guest's tick is the virtual timer. */
struct smpark_timer {
	u64 control, value;
};

/*
 * The tick would soon be pending for good and turn WFI into a busy loop. An
 * interrupt that was served may have set it anew.
 */
static void smpark_stop_timer(struct smpark_timer *timer)
{
	u64 control = read_sysreg(cntv_ctl_el0);

	if (control & ARCH_TIMER_CTRL_IT_MASK)
		return;
	timer->control = control;
	timer->value = read_sysreg(cntv_cval_el0);
	write_sysreg(ARCH_TIMER_CTRL_ENABLE | ARCH_TIMER_CTRL_IT_MASK, cntv_ctl_el0);
	write_sysreg(~0ULL, cntv_cval_el0);
	isb();
}

static void smpark_start_timer(const struct smpark_timer *timer)
{
	write_sysreg(timer->value, cntv_cval_el0);
	write_sysreg(timer->control, cntv_ctl_el0);
	isb();
}

/*
 * The values of whatever ran before are in the vector registers. Whose they are
 * has them in memory once kernel_neon_begin() has returned.
 */
static void smpark_clear_vectors(void)
{
	if (!system_supports_fpsimd())
		return;
	kernel_neon_begin();
	/* movi vN.2d, #0, written out, because this file may not use such registers otherwise */
#define SMPARK_CLEAR(n) asm volatile(".inst 0x6f00e400 + " #n)
	SMPARK_CLEAR(0);
	SMPARK_CLEAR(1);
	SMPARK_CLEAR(2);
	SMPARK_CLEAR(3);
	SMPARK_CLEAR(4);
	SMPARK_CLEAR(5);
	SMPARK_CLEAR(6);
	SMPARK_CLEAR(7);
	SMPARK_CLEAR(8);
	SMPARK_CLEAR(9);
	SMPARK_CLEAR(10);
	SMPARK_CLEAR(11);
	SMPARK_CLEAR(12);
	SMPARK_CLEAR(13);
	SMPARK_CLEAR(14);
	SMPARK_CLEAR(15);
	SMPARK_CLEAR(16);
	SMPARK_CLEAR(17);
	SMPARK_CLEAR(18);
	SMPARK_CLEAR(19);
	SMPARK_CLEAR(20);
	SMPARK_CLEAR(21);
	SMPARK_CLEAR(22);
	SMPARK_CLEAR(23);
	SMPARK_CLEAR(24);
	SMPARK_CLEAR(25);
	SMPARK_CLEAR(26);
	SMPARK_CLEAR(27);
	SMPARK_CLEAR(28);
	SMPARK_CLEAR(29);
	SMPARK_CLEAR(30);
	SMPARK_CLEAR(31);
	kernel_neon_end();
}

/*
 * Ends on a pending interrupt although they are masked, so a wake-up that
 * comes before it is not lost. No exception is under way, so what the last one
 * left in its registers is nobody's.
 */
static noinline noinstr void smpark_wfi(void)
{
	asm volatile("	msr	elr_el1, xzr\n"
		     "	msr	spsr_el1, xzr\n"
		     "	msr	esr_el1, xzr\n"
		     "	msr	far_el1, xzr\n"
		     "	msr	nzcv, xzr\n"
		     "	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17\n"
		     "	mov	x\\n, xzr\n"
		     "	.endr\n"
		     "	.irp	n, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 30\n"
		     "	mov	x\\n, xzr\n"
		     "	.endr\n"
		     "	dsb	sy\n"
		     "	wfi\n" ::
			     : "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13",
			       "x14", "x15", "x16", "x17", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26",
			       "x27", "x28", "x30", "cc", "memory");
}

/*
 * RCU must not watch a parked CPU, or it would hold up every grace period and
 * be reported as stalled. To RCU this is an idle task, as the one of
 * play_idle_precise() is. Hence noinstr: nothing here may be traced.
 */
static noinstr void smpark_sleep(void)
{
	current->flags |= PF_IDLE;
	ct_idle_enter();
	smpark_wfi();
	ct_idle_exit();
	current->flags &= ~PF_IDLE;
}

/* No other task runs here meanwhile: a waker may ask for one, and gets it after the release. */
void smpark_rest(unsigned int cpu, u32 sequence)
{
	struct smpark_timer timer = { 0 };
	unsigned long daif;

	preempt_disable();
	smpark_clear_vectors();
	daif = local_daif_save();
	smpark_stop_timer(&timer);
	smp_store_release(&smpark_page->arrived[cpu], sequence);
	/*
	 * Pairs with smpark_release(): either it finds this thread
	 * running and kicks the CPU, or we see the new number.
	 */
	smp_mb();
	while (smp_load_acquire(&smpark_page->sequence) == sequence) {
		smpark_sleep();
		local_daif_restore(daif);
		isb(); /* what is pending is served here */
		local_daif_mask();
		smpark_stop_timer(&timer);
	}
	smpark_start_timer(&timer);
	local_daif_restore(daif);
	preempt_enable();
}
