// SPDX-License-Identifier: GPL-2.0-only
/* The state page: a host finds it by a line on the console and reads it in the guest's memory. */
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/string.h>

#include "internal.h"

#define SMPARK_CONSOLE "/dev/console"
#define SMPARK_CONSOLE_WAITS 100 /* of 10 ms: for room, while the console takes no more */

struct smpark_state *smpark_page;

int smpark_page_init(void)
{
	BUILD_BUG_ON(sizeof(struct smpark_state) > PAGE_SIZE);
	BUILD_BUG_ON(SMPARK_CPUS < NR_CPUS);
	smpark_page = (struct smpark_state *)get_zeroed_page(GFP_KERNEL);
	if (!smpark_page)
		return -ENOMEM;
	memcpy(smpark_page->magic, SMPARK_MAGIC, sizeof smpark_page->magic);
	smpark_page->version = SMPARK_STATE_VERSION;
	smpark_page->size = sizeof *smpark_page;
	smpark_page->cpus = nr_cpu_ids;
	return 0;
}

void smpark_page_exit(void)
{
	free_page((unsigned long)smpark_page);
}

/* False: the console did not take all of it. */
static bool smpark_write_line(struct file *console, const char *line, size_t size)
{
	unsigned int waits = 0;
	loff_t at = 0;

	while (size) {
		ssize_t put = kernel_write(console, line, size, &at);

		if (put > 0) {
			line += put;
			size -= put;
		} else if (put == -EAGAIN && waits++ < SMPARK_CONSOLE_WAITS) {
			msleep(10);
		} else {
			return false;
		}
	}
	return true;
}

/*
 * By the console's device, because a line of the kernel's log would begin with
 * its time. Without the device, the line is one of the log all the same.
 */
void smpark_page_announce(void)
{
	struct file *console = filp_open(SMPARK_CONSOLE, O_WRONLY | O_NOCTTY | O_NONBLOCK, 0);
	char line[96];
	int size = scnprintf(line, sizeof line, "[SUPERMACHINE-SMPARK] state_gpa=0x%llx version=%u\n",
			     (unsigned long long)virt_to_phys(smpark_page), SMPARK_STATE_VERSION);

	if (IS_ERR(console) || !smpark_write_line(console, line, size))
		pr_notice("%s", line);
	if (!IS_ERR(console))
		filp_close(console, NULL);
}
