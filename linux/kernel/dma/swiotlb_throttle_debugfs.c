// SPDX-License-Identifier: GPL-2.0
/*
 * What swiotlb throttling did, per pool, in the pool's debugfs directory.
 */
#include <linux/debugfs.h>

#include "swiotlb_throttle.h"

static int throttle_high_get(void *data, u64 *val)
{
	struct swiotlb_throttle *t = data;

	*val = min_t(u64, READ_ONCE(t->high), t->mem->nslabs);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(throttle_high_fops, throttle_high_get, NULL, "%llu\n");

static int throttle_low_get(void *data, u64 *val)
{
	struct swiotlb_throttle *t = data;

	*val = READ_ONCE(t->low);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(throttle_low_fops, throttle_low_get, NULL, "%llu\n");

static int throttle_charged_get(void *data, u64 *val)
{
	struct swiotlb_throttle *t = data;

	*val = percpu_counter_sum_positive(&t->used);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(throttle_charged_fops, throttle_charged_get, NULL,
			 "%llu\n");

static int throttle_longest_wait_get(void *data, u64 *val)
{
	struct swiotlb_throttle *t = data;

	*val = DIV_ROUND_UP_ULL(READ_ONCE(t->longest_wait), NSEC_PER_MSEC);
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(throttle_longest_wait_fops, throttle_longest_wait_get,
			 NULL, "%llu\n");

/* A file of its own: a kernel that is locked down lets nobody open what can be written. */
static int throttle_reset_set(void *data, u64 val)
{
	struct swiotlb_throttle *t = data;

	/* Only allow setting to zero */
	if (val)
		return -EINVAL;

	spin_lock_irq(&t->wait.lock);
	WRITE_ONCE(t->longest_wait, 0);
	spin_unlock_irq(&t->wait.lock);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(throttle_reset_fops, NULL, throttle_reset_set,
			 "%llu\n");

/**
 * swiotlb_throttle_create_debugfs() - add the files of a pool's throttle
 * @mem:	Allocator whose debugfs directory has been created.
 *
 * Context: May sleep.
 */
void swiotlb_throttle_create_debugfs(struct io_tlb_mem *mem)
{
	struct swiotlb_throttle *t = mem->throttle;
	struct dentry *dir = mem->debugfs;

	if (!t)
		return;

	debugfs_create_file("throttle_high", 0400, dir, t, &throttle_high_fops);
	debugfs_create_file("throttle_low", 0400, dir, t, &throttle_low_fops);
	debugfs_create_file("throttle_charged", 0400, dir, t,
			    &throttle_charged_fops);
	debugfs_create_ulong("throttle_throttled", 0400, dir, &t->throttled);
	debugfs_create_ulong("throttle_serialized", 0400, dir, &t->serialized);
	debugfs_create_ulong("throttle_timed_out", 0400, dir, &t->timed_out);
	debugfs_create_ulong("throttle_capped", 0400, dir, &t->capped);
	debugfs_create_ulong("throttle_retried", 0400, dir, &t->retried);
	debugfs_create_ulong("throttle_wakeups", 0400, dir, &t->wakeups);
	debugfs_create_u32("throttle_waiting", 0400, dir, &t->waiting);
	debugfs_create_file("throttle_longest_wait_ms", 0400, dir, t,
			    &throttle_longest_wait_fops);
	debugfs_create_file("throttle_longest_wait_reset", 0200, dir, t,
			    &throttle_reset_fops);
}
