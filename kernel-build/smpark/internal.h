/* SPDX-License-Identifier: GPL-2.0-only */
/* What the module's files share. */
#ifndef SMPARK_INTERNAL_H
#define SMPARK_INTERNAL_H

#include <linux/fs.h>
#include <linux/types.h>

#include "smpark.h"

/* state.c: the page that the host can read, and that the module works with itself */
extern struct smpark_state *smpark_page;
int smpark_page_init(void);
void smpark_page_exit(void);
void smpark_page_announce(void);

/* rest.c: until the sequence of this CPU's park is over; interrupts are off, and are served in between */
void smpark_rest(unsigned int cpu, u32 sequence);

/* drain.c: what is queued on a CPU is done before it is parked */
void smpark_drain_start(unsigned int cpu);
bool smpark_drained(unsigned int cpu, u32 seq);
void smpark_drain_end(unsigned int cpu);
void smpark_drains_init(void);
void smpark_drains_exit(void);

/* park.c */
u32 smpark_sequence(void); /* of the PARK under way or in force, or 0 */
u32 smpark_wanted(unsigned int cpu); /* the sequence of the PARK that wants this CPU, or 0 */
int smpark_park(struct file *file);
int smpark_unpark(void);
struct file *smpark_owned_by(void);
bool smpark_owned_through(struct file *file, fl_owner_t files);
void smpark_go_down(void);
int smpark_threads_init(void);
void smpark_threads_exit(void);

#endif
