// SPDX-License-Identifier: GPL-2.0
/*
 * kernel.swiotlb.*: the tunables of swiotlb throttling.
 */
#include <linux/init.h>
#include <linux/mutex.h>
#include <linux/sysctl.h>

#include "swiotlb_throttle.h"

/* A change is read, checked and put in force as one. */
static DEFINE_MUTEX(swiotlb_sysctl_mutex);
static struct swiotlb_throttle_params swiotlb_sysctl_params;

static int swiotlb_sysctl_handler(const struct ctl_table *table, int write,
				  void *buffer, size_t *lenp, loff_t *ppos)
{
	int ret;

	mutex_lock(&swiotlb_sysctl_mutex);
	/* Only writers change the parameters, and they hold the mutex. */
	swiotlb_sysctl_params = swiotlb_throttle_params;
	ret = proc_dointvec_minmax(table, write, buffer, lenp, ppos);
	if (!ret && write)
		ret = swiotlb_throttle_set_params(&swiotlb_sysctl_params);
	mutex_unlock(&swiotlb_sysctl_mutex);
	return ret;
}

static const int swiotlb_max_ms = SWIOTLB_THROTTLE_MAX_MS;

static const struct ctl_table swiotlb_sysctls[] = {
	{
		.procname	= "throttle_high",
		.data		= &swiotlb_sysctl_params.high,
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= swiotlb_sysctl_handler,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE_HUNDRED,
	},
	{
		.procname	= "throttle_low",
		.data		= &swiotlb_sysctl_params.low,
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= swiotlb_sysctl_handler,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE_HUNDRED,
	},
	{
		.procname	= "throttle_stall_ms",
		.data		= &swiotlb_sysctl_params.stall_ms,
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= swiotlb_sysctl_handler,
		.extra1		= SYSCTL_ONE,
		.extra2		= (void *)&swiotlb_max_ms,
	},
	{
		.procname	= "throttle_cap_ms",
		.data		= &swiotlb_sysctl_params.cap_ms,
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= swiotlb_sysctl_handler,
		.extra1		= SYSCTL_ONE,
		.extra2		= (void *)&swiotlb_max_ms,
	},
};

static int __init swiotlb_sysctl_init(void)
{
	register_sysctl_init("kernel/swiotlb", swiotlb_sysctls);
	return 0;
}
core_initcall(swiotlb_sysctl_init);
