/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * /dev/smpark: bring every CPU but the caller's to rest, and let them go again.
 * What each call answers is in docs/guest-contract.md.
 */
#ifndef SMPARK_H
#define SMPARK_H

#include <linux/ioctl.h>

#define SMPARK_PARK	_IO('M', 1)	/* 0x4D01 */
#define SMPARK_UNPARK	_IO('M', 2)	/* 0x4D02 */

#endif
