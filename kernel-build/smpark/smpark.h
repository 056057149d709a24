/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * /dev/smpark: bring every CPU but one to rest, and let them go again.
 * What each call answers, and who reads the state, is in docs/guest-contract.md.
 */
#ifndef SMPARK_H
#define SMPARK_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define SMPARK_PARK _IO('M', 1) /* 0x4D01 */
#define SMPARK_UNPARK _IO('M', 2) /* 0x4D02 */

#define SMPARK_MAGIC "SMPARK\r\n"
#define SMPARK_STATE_VERSION 1
#define SMPARK_CPUS 64

enum { SMPARK_RUNNING, SMPARK_CHANGING, SMPARK_PARKED };

/* A page of the guest's memory, at the address on the console; little-endian. */
struct smpark_state {
	__u8 magic[8]; /* SMPARK_MAGIC */
	__u32 version; /* SMPARK_STATE_VERSION */
	__u32 size; /* bytes of this structure */
	__u32 cpus; /* how many entries of arrived[] are in use */
	__u32 state; /* SMPARK_RUNNING, SMPARK_CHANGING or SMPARK_PARKED */
	__u32 sequence; /* odd from each PARK to its UNPARK */
	__u32 cpu; /* the CPU that runs on while the others are parked */
	__u32 arrived[SMPARK_CPUS]; /* by CPU: the sequence at which it last came to rest */
};

#endif
