// SPDX-License-Identifier: Apache-2.0
/* How much of the memory the files of a tmpfs may take where the host does not say. */
#define _GNU_SOURCE
#include "init-oci.h"

#include <sys/sysinfo.h>

#define RESERVE_KIB (32 * 1024) /* for the kernel, the agent and the image's processes */
#define LEAST_PART 4 /* of the memory is for files in any case */

/*
 * What all tmpfs of init-oci may have together, in KiB. When they are full, the kernel must still find memory: files
 * cannot be taken away as a process can, so it panics where nothing is left.
 */
unsigned long long files_kib(void)
{
	struct sysinfo info;
	unsigned long long all, least;

	if (sysinfo(&info))
		return RESERVE_KIB;
	all = (unsigned long long)info.totalram * info.mem_unit / 1024;
	least = all / LEAST_PART;
	return all > RESERVE_KIB + least ? all - RESERVE_KIB : least;
}
