// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests for swiotlb throttling.
 *
 * Each test runs pools of its own short of slots, with fake devices. Nothing
 * here depends on how fast the machine is: a test waits until it sees what it
 * needs, and the timeouts of the throttle are out of reach unless they are what
 * is tested.
 *
 * Whatever a test did, all slots must have been given back when it ends; see
 * throttle_test_exit().
 */
#include <linux/atomic.h>
#include <linux/cc_platform.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/dma-direct.h>
#include <linux/dma-map-ops.h>
#include <linux/dma-mapping.h>
#include <linux/hrtimer.h>
#include <linux/iopoll.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/prandom.h>
#include <linux/random.h>
#include <linux/scatterlist.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/swiotlb.h>
#include <kunit/device.h>
#include <kunit/resource.h>
#include <kunit/test.h>

#include "../../kernel/dma/swiotlb_throttle.h"

static uint seed;
module_param(seed, uint, 0444);
MODULE_PARM_DESC(seed, "seed of the random tests, 0 (default) to pick one");

static uint random_ops = 1000000;
module_param(random_ops, uint, 0444);
MODULE_PARM_DESC(random_ops, "number of maps and unmaps of the random test");

/* Most tests use a pool of this size, with these thresholds. */
#define NSLABS		128
#define HIGH		(NSLABS / 2)
#define LOW		(NSLABS / 4)

/* The stress tests use a larger one. Per-CPU parts of the count matter there. */
#define STRESS_NSLABS		512
#define STRESS_MAX_HIGH		90	/* percent */
#define STRESS_MAX_SLOTS	8	/* of a piece */
#define STRESS_MAPPERS		5
#define STRESS_UNMAPPERS	2
#define STRESS_DEVICES		2

#define MAX_PIECES	4
/* One slot more than a mapping can have, which is as many as a pool has. */
#define BUFFER_SIZE	((IO_TLB_SEGSIZE + 1) << IO_TLB_SHIFT)

static const struct swiotlb_throttle_params default_params = {
	.high		= 50,
	.low		= 25,
	.stall_ms	= SWIOTLB_THROTTLE_MAX_MS,
	.cap_ms		= SWIOTLB_THROTTLE_MAX_MS,
};

/*
 * Wait for something that is about to happen. The limit is there to let a test
 * fail; it is below the timeouts of @default_params, so that it finds a waiter
 * that would have been woken by nothing else.
 */
#define wait_for(cond) \
	(!poll_timeout_us(cond_resched(), cond, 200, 5 * USEC_PER_SEC, false))

/**
 * struct test_pool - a throttled pool and a device
 * @mem:	The allocator.
 * @t:		Its throttle.
 * @dev:	Bounces everything through @mem.
 * @timed_out:	Stalls that the test provokes.
 * @capped:	Waits beyond the cap that the test provokes.
 * @any_timeout: The test does not know how many of either there are.
 * @node:	In the list of the test.
 */
struct test_pool {
	struct io_tlb_mem *mem;
	struct swiotlb_throttle *t;
	struct device *dev;
	unsigned long timed_out;
	unsigned long capped;
	bool any_timeout;
	struct list_head node;
};

enum request_type {
	SINGLE,		/* one map */
	LIST,		/* dma_map_sgtable() */
	ADMIT,		/* dma_admit(), then one map for each piece */
};

/**
 * struct request - something to map
 * @dev:	Device.
 * @buffer:	What is mapped, over and over, only ever to be read.
 * @type:	How it is mapped.
 * @nr:		Number of pieces.
 * @slots:	Size of each piece.
 * @total:	Sum of @slots.
 * @attrs:	For the maps.
 * @addr:	The mapped pieces.
 * @sgl:	The list, for %LIST.
 * @sgt:	Ditto.
 * @mapped:	It is mapped.
 * @task:	Maps it, if it is not the test itself.
 * @err:	Result of @task.
 * @waited_ms:	How long @task was in the map call.
 * @done:	The above are valid.
 * @node:	In the list of the test.
 */
struct request {
	struct device *dev;
	void *buffer;
	enum request_type type;
	unsigned int nr;
	unsigned int slots[MAX_PIECES];
	unsigned int total;
	unsigned long attrs;
	dma_addr_t addr[MAX_PIECES];
	struct scatterlist sgl[MAX_PIECES];
	struct sg_table sgt;
	bool mapped;

	struct task_struct *task;
	int err;
	s64 waited_ms;
	bool done;

	struct list_head node;
};

struct test_state {
	struct swiotlb_throttle_params saved;
	void *buffer;
	struct list_head pools;
	struct list_head requests;
};

struct test_stats {
	long high;
	long low;
	long serial_slots;
	unsigned int waiting;
	unsigned int nr_retry;
	unsigned long throttled;
	unsigned long serialized;
	unsigned long timed_out;
	unsigned long capped;
	unsigned long wakeups;
	s64 longest_wait;
};

static struct test_stats stats_of(struct test_pool *pool)
{
	struct swiotlb_throttle *t = pool->t;
	struct test_stats stats;

	spin_lock_irq(&t->wait.lock);
	stats.high = t->high;
	stats.low = t->low;
	stats.serial_slots = t->serial_slots;
	stats.waiting = t->waiting;
	stats.nr_retry = t->nr_retry;
	stats.throttled = t->throttled;
	stats.serialized = t->serialized;
	stats.timed_out = t->timed_out;
	stats.capped = t->capped;
	stats.wakeups = t->wakeups;
	stats.longest_wait = t->longest_wait;
	spin_unlock_irq(&t->wait.lock);
	return stats;
}

static s64 used_in(struct test_pool *pool)
{
	return percpu_counter_sum(&pool->t->used);
}

/* The smallest size that takes so many slots, to have less to copy. */
static size_t slots_to_size(unsigned int slots)
{
	return ((slots - 1) << IO_TLB_SHIFT) + 1;
}

static int map_piece(struct request *r, int i, unsigned long attrs)
{
	r->addr[i] = dma_map_single_attrs(r->dev, r->buffer,
					  slots_to_size(r->slots[i]),
					  DMA_TO_DEVICE,
					  attrs | DMA_ATTR_NO_WARN);
	return dma_mapping_error(r->dev, r->addr[i]);
}

static void unmap_piece(struct request *r, int i, unsigned long attrs)
{
	dma_unmap_single_attrs(r->dev, r->addr[i], slots_to_size(r->slots[i]),
			       DMA_TO_DEVICE, attrs);
}

/* Take what the request needs, and see whether that is what was asked for. */
static int admit_request(struct request *r, unsigned long *attrs)
{
	unsigned int slots = 0;
	int i;

	for (i = 0; i < r->nr; i++)
		slots += dma_bounce_slots(r->dev, virt_to_phys(r->buffer),
					  slots_to_size(r->slots[i]));
	if (WARN_ON(slots != r->total))
		return -EINVAL;
	return dma_admit(r->dev, slots, attrs);
}

/* Returns 0, or the number of the piece that could not be mapped, from 1. */
static int map_admitted(struct request *r, unsigned long attrs)
{
	int i, failed;

	for (i = 0; i < r->nr; i++) {
		if (!map_piece(r, i, i ? attrs & ~DMA_ATTR_MAY_BLOCK : attrs))
			continue;
		failed = i + 1;
		while (i--)
			unmap_piece(r, i, DMA_ATTR_UNDO);
		return failed;
	}
	return 0;
}

static int map_admitted_with_retry(struct request *r, unsigned long attrs)
{
	struct dma_retry retry;
	unsigned long first;
	int failed;

	dma_retry_init(&retry);
	do {
		first = dma_retry_attrs(attrs, &retry);
		failed = map_admitted(r, first);
		/* The first map has waited by itself, if it could. */
	} while (dma_admit_retry(r->dev, attrs, failed > 1 ||
				 (failed && !(first & DMA_ATTR_MAY_BLOCK)),
				 &retry));
	return failed ? -ENOMEM : 0;
}

static int map_request(struct request *r)
{
	unsigned long attrs = r->attrs;
	int i, err;

	switch (r->type) {
	case SINGLE:
		err = map_piece(r, 0, attrs);
		break;
	case LIST:
		sg_init_table(r->sgl, r->nr);
		for (i = 0; i < r->nr; i++)
			sg_set_buf(&r->sgl[i], r->buffer,
				   slots_to_size(r->slots[i]));
		r->sgt.sgl = r->sgl;
		r->sgt.orig_nents = r->nr;
		err = dma_map_sgtable(r->dev, &r->sgt, DMA_TO_DEVICE,
				      attrs | DMA_ATTR_NO_WARN);
		break;
	case ADMIT:
		err = admit_request(r, &attrs);
		if (err)
			break;
		err = map_admitted_with_retry(r, attrs);
		if (err)
			dma_unadmit(r->dev, r->total, attrs);
		break;
	}
	r->mapped = !err;
	return err;
}

static void unmap_request(struct request *r)
{
	int i;

	r->mapped = false;
	if (r->type == LIST) {
		dma_unmap_sgtable(r->dev, &r->sgt, DMA_TO_DEVICE, 0);
		return;
	}
	for (i = 0; i < r->nr; i++)
		unmap_piece(r, i, 0);
}

static struct request *new_request(struct kunit *test, struct test_pool *pool,
				   unsigned int slots, unsigned long attrs)
{
	struct test_state *state = test->priv;
	struct request *r;

	r = kunit_kzalloc(test, sizeof(*r), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, r);
	r->dev = pool->dev;
	r->buffer = state->buffer;
	r->nr = 1;
	r->slots[0] = slots;
	r->total = slots;
	r->attrs = attrs;
	list_add_tail(&r->node, &state->requests);
	return r;
}

static void add_piece(struct request *r, unsigned int slots)
{
	r->slots[r->nr++] = slots;
	r->total += slots;
}

/* A map that is expected to succeed, with no need to sleep. */
static struct request *map_now(struct kunit *test, struct test_pool *pool,
			       unsigned int slots, unsigned long attrs)
{
	struct request *r = new_request(test, pool, slots, attrs);

	KUNIT_ASSERT_EQ(test, map_request(r), 0);
	return r;
}

static struct request *map_plain(struct kunit *test, struct test_pool *pool,
				 unsigned int slots)
{
	return map_now(test, pool, slots, 0);
}

/* One by one: they are placed side by side in a new pool. */
static void take_slots(struct kunit *test, struct test_pool *pool,
		       unsigned int slots)
{
	while (slots--)
		map_plain(test, pool, 1);
}

static struct request *map_blocking(struct kunit *test, struct test_pool *pool,
				    unsigned int slots)
{
	return map_now(test, pool, slots, DMA_ATTR_MAY_BLOCK);
}

static int request_thread(void *data)
{
	struct request *r = data;
	ktime_t start = ktime_get();

	r->err = map_request(r);
	r->waited_ms = ktime_ms_delta(ktime_get(), start);
	/* Pairs with is_done(). */
	smp_store_release(&r->done, true);
	return 0;
}

static bool is_done(struct request *r)
{
	/* Pairs with request_thread(). */
	return smp_load_acquire(&r->done);
}

/*
 * Is it in io_schedule()? It counts as waiting before that, but could then find
 * that it has been admitted without having slept.
 */
static bool is_asleep(struct request *r)
{
	/* Polled, while it changes. */
	return data_race(!!r->task->in_iowait);
}

/* It may end at any time; it is to be given back with kthread_stop_put(). */
static struct task_struct *create_thread(struct kunit *test,
					 int (*fn)(void *data), void *data)
{
	struct task_struct *task;

	task = kthread_create(fn, data, "throttle-test");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);
	return get_task_struct(task);
}

static void start_request(struct kunit *test, struct request *r)
{
	r->task = create_thread(test, request_thread, r);
	wake_up_process(r->task);
}

/* Map in a thread, which is expected to sleep over it. */
static void start_sleeper(struct kunit *test, struct request *r)
{
	start_request(test, r);
	KUNIT_ASSERT_TRUE(test, wait_for(is_asleep(r) || is_done(r)));
	KUNIT_ASSERT_FALSE(test, is_done(r));
}

static struct request *start_waiter(struct kunit *test, struct test_pool *pool,
				    unsigned int slots)
{
	struct request *r = new_request(test, pool, slots, DMA_ATTR_MAY_BLOCK);

	start_sleeper(test, r);
	return r;
}

/* With short timeouts, it may be over before it can be seen. */
static struct request *start_short_waiter(struct kunit *test,
					  struct test_pool *pool, unsigned int slots)
{
	struct request *r = new_request(test, pool, slots, DMA_ATTR_MAY_BLOCK);

	start_request(test, r);
	return r;
}

/* These are macros so that a failure tells the line of the test. */
#define assert_done(test, r, result) do {				\
	struct kunit *__test = (test);					\
	struct request *__r = (r);					\
									\
	KUNIT_ASSERT_TRUE(__test, wait_for(is_done(__r)));		\
	KUNIT_EXPECT_EQ(__test, __r->err, result);			\
} while (0)

#define expect_done(test, r)	assert_done(test, r, 0)
#define expect_failed(test, r)	assert_done(test, r, -ENOMEM)

/*
 * Exact: who goes is admitted before the unmap, or whatever else it was, has
 * returned.
 */
#define expect_waiting(test, pool, n) \
	KUNIT_EXPECT_EQ(test, stats_of(pool).waiting, n)

/*
 * All slots up to high are taken by those who never wait, and the serialized
 * place is taken, too: whoever can wait has to.
 */
struct crowd {
	struct request *plain[HIGH];
	struct request *serialized;
};

static struct crowd *fill_pool(struct kunit *test, struct test_pool *pool)
{
	struct crowd *crowd;
	int i;

	crowd = kunit_kzalloc(test, sizeof(*crowd), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, crowd);
	for (i = 0; i < HIGH; i++)
		crowd->plain[i] = map_plain(test, pool, 1);
	crowd->serialized = map_blocking(test, pool, 1);
	KUNIT_ASSERT_EQ(test, stats_of(pool).serial_slots, 1);
	return crowd;
}

static void set_params(struct kunit *test, int high, int low, int stall_ms,
		       int cap_ms)
{
	struct swiotlb_throttle_params params = {
		.high		= high,
		.low		= low,
		.stall_ms	= stall_ms,
		.cap_ms		= cap_ms,
	};

	KUNIT_ASSERT_EQ(test, swiotlb_throttle_set_params(&params), 0);
}

/* Leave the thresholds alone. */
static void set_timeouts(struct kunit *test, int stall_ms, int cap_ms)
{
	set_params(test, default_params.high, default_params.low, stall_ms,
		   cap_ms);
}

static void set_thresholds(struct kunit *test, int high, int low)
{
	set_params(test, high, low, default_params.stall_ms,
		   default_params.cap_ms);
}

KUNIT_DEFINE_ACTION_WRAPPER(free_mem, swiotlb_kunit_free, struct io_tlb_mem *);

static struct device *new_device(struct kunit *test, struct io_tlb_mem *mem,
				 const char *name)
{
	struct device *dev = kunit_device_register(test, name);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dev);
	KUNIT_ASSERT_EQ(test, dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64)),
			0);
	dev->dma_io_tlb_mem = mem;
	return dev;
}

static struct test_pool *new_pool(struct kunit *test, unsigned long nslabs,
				  unsigned int nareas, const char *name)
{
	struct test_state *state = test->priv;
	struct test_pool *pool;

	pool = kunit_kzalloc(test, sizeof(*pool), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, pool);
	pool->mem = swiotlb_kunit_alloc(nslabs, nareas);
	KUNIT_ASSERT_NOT_NULL(test, pool->mem);
	/* The device, which comes later, is gone when this is called. */
	KUNIT_ASSERT_EQ(test,
			kunit_add_action_or_reset(test, free_mem, pool->mem),
			0);
	pool->t = pool->mem->throttle;
	pool->dev = new_device(test, pool->mem, name);
	list_add_tail(&pool->node, &state->pools);
	return pool;
}

static struct test_pool *default_pool(struct kunit *test)
{
	return new_pool(test, NSLABS, 1, "dev");
}

static int throttle_test_init(struct kunit *test)
{
	struct test_state *state;

	if (cc_platform_has(CC_ATTR_MEM_ENCRYPT))
		kunit_skip(test, "the pools of the test would need decryption");

	state = kunit_kzalloc(test, sizeof(*state), GFP_KERNEL);
	if (!state)
		return -ENOMEM;
	state->buffer = kunit_kzalloc(test, BUFFER_SIZE, GFP_KERNEL);
	if (!state->buffer)
		return -ENOMEM;
	INIT_LIST_HEAD(&state->pools);
	INIT_LIST_HEAD(&state->requests);
	state->saved = swiotlb_throttle_params;
	test->priv = state;
	return swiotlb_throttle_set_params(&default_params);
}

/* The part of all tests that is not their own. */
static void throttle_test_exit(struct kunit *test)
{
	static const struct swiotlb_throttle_params off = {
		.high		= 100,
		.stall_ms	= 1,
		.cap_ms		= 1,
	};
	struct test_state *state = test->priv;
	struct test_pool *pool;
	struct request *r;
	int i;

	if (!state)
		return;

	/* A test that failed may leave waiters behind. */
	if (test->status == KUNIT_FAILURE)
		swiotlb_throttle_set_params(&off);
	list_for_each_entry(r, &state->requests, node)
		if (r->task)
			kthread_stop_put(r->task);
	list_for_each_entry(r, &state->requests, node)
		if (r->mapped)
			unmap_request(r);

	list_for_each_entry(pool, &state->pools, node) {
		struct swiotlb_throttle *t = pool->t;

		KUNIT_EXPECT_EQ(test, used_in(pool), 0);
		KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots, 0);
		KUNIT_EXPECT_EQ(test, stats_of(pool).waiting, 0);
		KUNIT_EXPECT_EQ(test, stats_of(pool).nr_retry, 0);
		KUNIT_EXPECT_TRUE(test, list_empty(&t->wait.head));
		KUNIT_EXPECT_TRUE(test, list_empty(&t->retry));
		KUNIT_EXPECT_TRUE(test, list_empty(&t->set_aside));
		for (i = 0; i < THROTTLE_SHARES; i++) {
			KUNIT_EXPECT_EQ(test, t->shares[i].nr_waiters, 0);
			KUNIT_EXPECT_EQ(test,
					atomic_long_read(&t->shares[i].held), 0);
		}
		if (pool->any_timeout)
			continue;
		KUNIT_EXPECT_EQ(test, stats_of(pool).timed_out, pool->timed_out);
		KUNIT_EXPECT_EQ(test, stats_of(pool).capped, pool->capped);
	}
	swiotlb_throttle_set_params(&state->saved);
}

static void run_on_cpu(int nr)
{
	int cpu = cpumask_nth(nr % num_online_cpus(), cpu_online_mask);

	set_cpus_allowed_ptr(current, cpumask_of(cpu));
}

static void admitted_up_to_high(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	int i;

	for (i = 0; i < HIGH; i++)
		map_blocking(test, pool, 1);
	KUNIT_EXPECT_EQ(test, used_in(pool), HIGH);
	KUNIT_EXPECT_EQ(test, stats_of(pool).throttled, 0);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 0);

	map_blocking(test, pool, 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);
	start_waiter(test, pool, 1);
	KUNIT_EXPECT_EQ(test, used_in(pool), HIGH + 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).throttled, 1);

	/* Let it go. */
	set_thresholds(test, 90, 0);
}

static void admitted_to_the_last_slot(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);

	/* Requests of different sizes that fill it exactly, the last one too. */
	map_blocking(test, pool, HIGH - 7);
	map_blocking(test, pool, 4);
	map_blocking(test, pool, 3);
	KUNIT_EXPECT_EQ(test, used_in(pool), HIGH);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 0);
}

static void plain_maps_never_wait(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *r;

	fill_pool(test, pool);
	r = start_waiter(test, pool, 1);
	take_slots(test, pool, NSLABS - used_in(pool));
	expect_waiting(test, pool, 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).throttled, 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);

	/* Let it go; it finds no room. */
	set_thresholds(test, 100, 0);
	expect_failed(test, r);
}

/* The central count does not show these yet. */
static void plain_maps_take_from_the_room(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	unsigned int room = pool->t->max_room;
	unsigned int plain = min_t(unsigned int, pool->t->batch, room) - 1;

	run_on_cpu(0);
	map_blocking(test, pool, HIGH - room);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&pool->t->room), room);
	take_slots(test, pool, plain);
	map_blocking(test, pool, room - plain + 1);
	set_cpus_allowed_ptr(current, cpu_possible_mask);
	KUNIT_EXPECT_EQ(test, used_in(pool), HIGH + 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);
}

static void serialized_above_high(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *waiter[4], *serialized;
	int i;

	serialized = fill_pool(test, pool)->serialized;
	for (i = 0; i < ARRAY_SIZE(waiter); i++)
		waiter[i] = start_waiter(test, pool, i + 2);

	/* Those who hold the rest never give it back, and yet all get on. */
	for (i = 0; i < ARRAY_SIZE(waiter); i++) {
		unmap_request(serialized);
		serialized = waiter[i];
		expect_done(test, serialized);
		KUNIT_EXPECT_EQ(test, used_in(pool), HIGH + serialized->total);
		KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots,
				serialized->total);
		KUNIT_EXPECT_EQ(test, stats_of(pool).waiting,
				ARRAY_SIZE(waiter) - 1 - i);
	}
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized,
			1 + ARRAY_SIZE(waiter));
}

static void place_is_kept_until_last_unmap(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *serialized, *waiter;

	map_plain(test, pool, HIGH);
	serialized = new_request(test, pool, 2, DMA_ATTR_MAY_BLOCK);
	serialized->type = ADMIT;
	add_piece(serialized, 3);
	add_piece(serialized, 1);
	KUNIT_ASSERT_EQ(test, map_request(serialized), 0);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots, 6);

	waiter = start_waiter(test, pool, 1);
	serialized->mapped = false;
	unmap_piece(serialized, 1, 0);
	unmap_piece(serialized, 0, 0);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots, 1);
	expect_waiting(test, pool, 1);
	unmap_piece(serialized, 2, 0);
	expect_done(test, waiter);
}

/*
 * Two wait for two slots each. One unmap takes usage from above high to below
 * low, and it never crosses a threshold again.
 */
static void one_unmap_releases_all_who_fit(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *big, *a, *b;

	big = map_plain(test, pool, HIGH - 4);
	map_plain(test, pool, 10);
	map_blocking(test, pool, 1);
	a = start_waiter(test, pool, 2);
	b = start_waiter(test, pool, 2);

	unmap_request(big);
	expect_done(test, a);
	expect_done(test, b);
	KUNIT_EXPECT_EQ(test, used_in(pool), 10 + 1 + 2 + 2);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);
}

/*
 * A slow disk holds the serialized place, a fast one waits, and network buffers
 * are freed: the fast disk must not wait for the slow one.
 */
static void slow_disk_does_not_delay_fast_disk(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *slow, *fast;
	struct crowd *crowd;
	int i;

	crowd = fill_pool(test, pool);
	slow = crowd->serialized;
	fast = new_request(test, pool, 4, DMA_ATTR_MAY_BLOCK);
	fast->dev = new_device(test, pool->mem, "fast");
	start_sleeper(test, fast);

	for (i = HIGH; i >= LOW && !is_done(fast); i--)
		unmap_request(crowd->plain[i - 1]);
	expect_done(test, fast);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots, slow->total);

	/* It does not have to wait again. */
	unmap_request(fast);
	for (i = 0; i < 10; i++) {
		KUNIT_ASSERT_EQ(test, map_request(fast), 0);
		unmap_request(fast);
	}
	KUNIT_EXPECT_EQ(test, stats_of(pool).throttled, 1);
}

/**
 * struct greedy - a device that holds all there is below the threshold
 * @serialized:	1 slot.
 * @held:	8 slots each.
 * @large:	Waits for 16 slots.
 * @small:	Waits behind it for 2.
 */
struct greedy {
	struct request *serialized;
	struct request *held[7];
	struct request *large;
	struct request *small;
};

static struct greedy *start_greedy(struct kunit *test, struct test_pool *pool)
{
	struct greedy *g = kunit_kzalloc(test, sizeof(*g), GFP_KERNEL);
	struct crowd *crowd;
	int i;

	KUNIT_ASSERT_NOT_NULL(test, g);
	crowd = fill_pool(test, pool);
	g->serialized = crowd->serialized;
	for (i = 0; i < ARRAY_SIZE(g->held); i++)
		g->held[i] = start_waiter(test, pool, 8);
	for (i = 0; i < HIGH; i++)
		unmap_request(crowd->plain[i]);
	/* The queue is looked at once more: the goal may not have been reached. */
	set_timeouts(test, default_params.stall_ms, default_params.cap_ms);
	for (i = 0; i < ARRAY_SIZE(g->held); i++)
		expect_done(test, g->held[i]);
	g->large = start_waiter(test, pool, 16);
	g->small = start_waiter(test, pool, 2);
	return g;
}

/* Start it, and another device; the one gives back, and the other takes, 8. */
static struct request *pass_greedy(struct kunit *test, struct test_pool *pool,
				   struct greedy *g)
{
	struct request *other;
	int i;

	other = new_request(test, pool, 8, DMA_ATTR_MAY_BLOCK);
	other->dev = new_device(test, pool->mem, "other");
	start_sleeper(test, other);
	for (i = 0; i < 4; i++)
		unmap_request(g->held[i]);
	expect_done(test, other);
	/* Both would fit, but with them the device would hold more than half. */
	expect_waiting(test, pool, 2);
	return other;
}

static void device_keeps_to_its_share(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct greedy *g = start_greedy(test, pool);
	struct request *other, *r;

	other = pass_greedy(test, pool, g);
	r = new_request(test, pool, 2, DMA_ATTR_MAY_BLOCK);
	r->dev = other->dev;
	KUNIT_EXPECT_EQ(test, map_request(r), 0);
	/* The queue was looked at, and the small one has not passed the large. */
	expect_waiting(test, pool, 2);

	/* 16 of half of HIGH are left to it when the large one may go. */
	unmap_request(g->held[4]);
	expect_waiting(test, pool, 2);
	unmap_request(g->held[5]);
	expect_done(test, g->large);
	expect_done(test, g->small);
}

/* Others keep so much that there is not a whole share for each. */
static void set_aside_do_not_come_first(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct greedy *g = start_greedy(test, pool);
	struct request *other, *plain[HIGH / 2], *more[4];
	int i;

	pass_greedy(test, pool, g);
	for (i = 0; i < HIGH / 2; i++)
		plain[i] = map_plain(test, pool, 1);
	other = new_request(test, pool, 8, DMA_ATTR_MAY_BLOCK);
	other->dev = new_device(test, pool->mem, "third");
	start_sleeper(test, other);
	for (i = 0; i < ARRAY_SIZE(more); i++)
		more[i] = start_waiter(test, pool, 2);

	/* Those who came before it go, and those who came later do not. */
	for (i = 4; i < ARRAY_SIZE(g->held); i++)
		unmap_request(g->held[i]);
	expect_done(test, g->large);
	expect_done(test, g->small);
	expect_waiting(test, pool, 1 + ARRAY_SIZE(more));

	unmap_request(g->serialized);
	expect_done(test, other);
	for (i = 0; i < HIGH / 2; i++)
		unmap_request(plain[i]);
	unmap_request(g->large);
	for (i = 0; i < ARRAY_SIZE(more); i++)
		expect_done(test, more[i]);
}

static void share_of_idle_device_is_free(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct greedy *g = start_greedy(test, pool);

	unmap_request(pass_greedy(test, pool, g));
	/* Each setting has the queue looked at. */
	set_timeouts(test, default_params.stall_ms, default_params.cap_ms);
	expect_waiting(test, pool, 2);
	msleep(2200);
	set_timeouts(test, default_params.stall_ms, default_params.cap_ms);
	expect_done(test, g->large);
	expect_done(test, g->small);
}

/* Nothing else has the queue looked at: no unmap, no new setting. */
static void newcomer_finds_idle_share(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct greedy *g = start_greedy(test, pool);
	struct request *r;

	unmap_request(pass_greedy(test, pool, g));
	expect_waiting(test, pool, 2);
	msleep(2200);
	r = new_request(test, pool, 1, DMA_ATTR_MAY_BLOCK);
	start_request(test, r);
	expect_done(test, r);
	expect_done(test, g->large);
	expect_done(test, g->small);
}

static void set_aside_for_a_limited_time(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct greedy *g = start_greedy(test, pool);

	pass_greedy(test, pool, g);
	pool->any_timeout = true;
	set_timeouts(test, 20, 20);
	expect_done(test, g->large);
	expect_done(test, g->small);
	expect_waiting(test, pool, 0);
}

static void set_aside_are_released_by_off(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct greedy *g = start_greedy(test, pool);

	pass_greedy(test, pool, g);
	set_thresholds(test, 100, 100);
	expect_done(test, g->large);
	expect_done(test, g->small);
}

static void admit_refuses_more_than_a_share(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct greedy *g = start_greedy(test, pool);
	struct request *other, *r;
	int i;

	other = pass_greedy(test, pool, g);
	/* Not past its own that are set aside, */
	r = new_request(test, pool, 1, 0);
	r->type = ADMIT;
	KUNIT_EXPECT_EQ(test, map_request(r), -EAGAIN);
	/* but past those of others, */
	r->dev = other->dev;
	KUNIT_EXPECT_EQ(test, map_request(r), 0);
	/* if it is no more than its share. */
	r = new_request(test, pool, 28, 0);
	r->type = ADMIT;
	r->dev = other->dev;
	KUNIT_EXPECT_EQ(test, map_request(r), -EAGAIN);
	expect_waiting(test, pool, 2);

	for (i = 4; i < ARRAY_SIZE(g->held); i++)
		unmap_request(g->held[i]);
	expect_done(test, g->large);
	expect_done(test, g->small);
}

/* More devices than can be told apart: the rest is not held to a share. */
static void devices_beyond_the_shares(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *r[THROTTLE_SHARES + 2];
	struct crowd *crowd;
	char name[16];
	int i;

	for (i = 0; i < ARRAY_SIZE(r); i++) {
		scnprintf(name, sizeof(name), "dev-%d", i);
		r[i] = new_request(test, pool, 1, 0);
		r[i]->type = ADMIT;
		r[i]->dev = new_device(test, pool->mem, name);
	}
	crowd = fill_pool(test, pool);
	for (i = 0; i < ARRAY_SIZE(r); i++)
		KUNIT_EXPECT_EQ(test, map_request(r[i]), -EAGAIN);
	KUNIT_EXPECT_EQ(test, READ_ONCE(pool->t->active), THROTTLE_SHARES);

	i = ARRAY_SIZE(r) - 1;
	r[i]->attrs = DMA_ATTR_MAY_BLOCK;
	start_sleeper(test, r[i]);
	/* What has not asked for a while makes way. */
	msleep(2200);
	for (i = 0; i < HIGH; i++)
		unmap_request(crowd->plain[i]);
	KUNIT_EXPECT_LT(test, READ_ONCE(pool->t->active), THROTTLE_SHARES);
	expect_done(test, r[ARRAY_SIZE(r) - 1]);
}

/* What one CPU maps and another unmaps stays in the per-CPU parts of a count. */
static void per_cpu_residue_strands_nobody(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct crowd *crowd;
	struct request *r;
	int i;

	run_on_cpu(0);
	crowd = fill_pool(test, pool);
	r = start_waiter(test, pool, 1);
	run_on_cpu(1);
	for (i = HIGH; i > LOW - 1; i--)
		unmap_request(crowd->plain[i - 1]);
	set_cpus_allowed_ptr(current, cpu_possible_mask);
	/* This is low, exactly. */
	KUNIT_EXPECT_EQ(test, used_in(pool), LOW + 1);
	expect_waiting(test, pool, 0);
	expect_done(test, r);
}

static void waiters_go_in_order(struct kunit *test)
{
	static const unsigned int slots[] = { 8, 1, 5, 1, 2 };
	struct request *waiter[ARRAY_SIZE(slots)];
	struct test_pool *pool = default_pool(test);
	int i, freed, next = 0;
	struct crowd *crowd;

	/* All is looked at as soon as the first may fit. */
	set_thresholds(test, default_params.high, default_params.high);
	crowd = fill_pool(test, pool);
	/* The serialized request is above high, so one more must be freed. */
	freed = -1;
	for (i = 0; i < ARRAY_SIZE(slots); i++)
		waiter[i] = start_waiter(test, pool, slots[i]);

	for (i = 0; next < ARRAY_SIZE(slots); i++) {
		KUNIT_ASSERT_LT(test, i, HIGH);
		unmap_request(crowd->plain[i]);
		if (++freed == slots[next]) {
			expect_done(test, waiter[next]);
			freed = 0;
			next++;
		}
		/* Those behind do not pass, small as they may be. */
		expect_waiting(test, pool, ARRAY_SIZE(slots) - next);
	}
}

static void newcomer_does_not_pass(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *big, *newcomer;
	struct crowd *crowd;
	int i;

	crowd = fill_pool(test, pool);
	big = start_waiter(test, pool, HIGH / 2 - 2);
	/* There is room for a small request now, but not for the big one. */
	for (i = HIGH; i > LOW + 4; i--)
		unmap_request(crowd->plain[i - 1]);
	newcomer = start_waiter(test, pool, 1);
	expect_waiting(test, pool, 2);

	for (; i > LOW - 1; i--)
		unmap_request(crowd->plain[i - 1]);
	expect_done(test, big);
	expect_done(test, newcomer);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);
}

static void one_wakeup_per_admission(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *waiter[8];
	struct crowd *crowd;
	int i;

	crowd = fill_pool(test, pool);
	for (i = 0; i < ARRAY_SIZE(waiter); i++)
		waiter[i] = start_waiter(test, pool, 8);
	for (i = 0; i < HIGH; i++)
		unmap_request(crowd->plain[i]);
	/* The serialized request is in the way of the last one. */
	unmap_request(crowd->serialized);
	for (i = 0; i < ARRAY_SIZE(waiter); i++)
		expect_done(test, waiter[i]);
	KUNIT_EXPECT_EQ(test, stats_of(pool).throttled, ARRAY_SIZE(waiter));
	KUNIT_EXPECT_EQ(test, stats_of(pool).wakeups, ARRAY_SIZE(waiter));
}

static void larger_than_high(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *first, *second, *small;

	first = map_blocking(test, pool, HIGH + 10);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots, HIGH + 10);
	second = start_waiter(test, pool, HIGH + 20);
	small = start_waiter(test, pool, 1);

	/* The small one is in the queue behind it and fits on its own only. */
	unmap_request(first);
	expect_done(test, second);
	expect_waiting(test, pool, 1);
	unmap_request(second);
	expect_done(test, small);
}

/* No room is made for it by waiting, whether it is alone or in a list. */
static void larger_than_a_mapping(struct kunit *test)
{
	struct test_pool *pool = new_pool(test, 4 * IO_TLB_SEGSIZE, 1, "dev");
	struct request *r;

	r = start_short_waiter(test, pool, IO_TLB_SEGSIZE + 1);
	expect_failed(test, r);

	r = new_request(test, pool, 1, DMA_ATTR_MAY_BLOCK);
	r->type = LIST;
	add_piece(r, IO_TLB_SEGSIZE + 1);
	start_request(test, r);
	assert_done(test, r, -EIO);
	KUNIT_EXPECT_EQ(test, used_in(pool), 0);
}

static void stall_then_map_succeeds(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *r;

	set_timeouts(test, 150, SWIOTLB_THROTTLE_MAX_MS);
	pool->timed_out = 1;
	fill_pool(test, pool);
	r = start_short_waiter(test, pool, 2);
	expect_done(test, r);
	/* A jiffy may be over at once. */
	KUNIT_EXPECT_GE(test, r->waited_ms, 150 - jiffies_to_msecs(1));
	KUNIT_EXPECT_GE(test, stats_of(pool).longest_wait,
			(150 - jiffies_to_msecs(1)) * NSEC_PER_MSEC);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);
	KUNIT_EXPECT_EQ(test, used_in(pool), HIGH + 1 + 2);
}

static void stall_then_map_fails(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *r;

	set_timeouts(test, 150, SWIOTLB_THROTTLE_MAX_MS);
	/* One: the map that finds no room then does not wait once more. */
	pool->timed_out = 1;
	fill_pool(test, pool);
	take_slots(test, pool, NSLABS - HIGH - 2);
	r = start_short_waiter(test, pool, 2);
	expect_failed(test, r);
	KUNIT_EXPECT_EQ(test, used_in(pool), NSLABS - 1);
}

/* Unmap and map again what is not throttled, every few milliseconds. */
static void free_steadily(struct kunit *test, struct request *plain, int ms,
			  struct request *waiter)
{
	unsigned long end = jiffies + msecs_to_jiffies(ms);

	while (time_before(jiffies, end) && !is_done(waiter)) {
		unmap_request(plain);
		KUNIT_ASSERT_EQ(test, map_request(plain), 0);
		msleep(20);
	}
}

static void steady_frees_are_no_stall(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct crowd *crowd;
	struct request *r;

	set_timeouts(test, 1000, SWIOTLB_THROTTLE_MAX_MS);
	crowd = fill_pool(test, pool);
	r = start_waiter(test, pool, 1);
	free_steadily(test, crowd->plain[0], 2500, r);
	expect_waiting(test, pool, 1);
	unmap_request(crowd->serialized);
	expect_done(test, r);
}

static void wait_is_capped(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct crowd *crowd;
	struct request *r;

	set_timeouts(test, 1000, 1500);
	pool->capped = 1;
	crowd = fill_pool(test, pool);
	r = start_waiter(test, pool, 1);
	free_steadily(test, crowd->plain[0], 5000, r);
	expect_done(test, r);
	KUNIT_EXPECT_GE(test, r->waited_ms, 1500 - jiffies_to_msecs(1));
}

static void next_goes_when_head_gives_up(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *head, *next;
	struct crowd *crowd;
	int i;

	set_timeouts(test, 1500, 1500);
	pool->capped = 1;
	crowd = fill_pool(test, pool);
	head = start_waiter(test, pool, 10);
	msleep(700);
	next = start_waiter(test, pool, 2);
	/* Both would fit now, but this is not yet low, so nobody looks. */
	for (i = 0; i < 20; i++)
		unmap_request(crowd->plain[i]);
	expect_waiting(test, pool, 2);

	expect_done(test, head);
	expect_done(test, next);
}

/* Fill the pool with maps of one slot; @map is in the order of the slots. */
static void fill_slot_by_slot(struct kunit *test, struct test_pool *pool,
			      struct request **map)
{
	dma_addr_t start = phys_to_dma(pool->dev, pool->mem->defpool.start);
	struct request *r;
	int i;

	for (i = 0; i < NSLABS; i++) {
		r = map_plain(test, pool, 1);
		map[(r->addr[0] - start) >> IO_TLB_SHIFT] = r;
	}
}

static struct request **alloc_slot_map(struct kunit *test)
{
	struct request **map;

	map = kunit_kcalloc(test, NSLABS, sizeof(*map), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, map);
	return map;
}

/* Has the first in the retry list searched again since the last unmap? */
static bool has_retried(struct test_pool *pool, struct request *r)
{
	struct swiotlb_throttle *t = pool->t;
	struct dma_retry *retry;
	bool seen;

	spin_lock_irq(&t->wait.lock);
	retry = list_first_entry_or_null(&t->retry, struct dma_retry,
					 entry);
	seen = retry && retry->seen == t->retry_seq;
	spin_unlock_irq(&t->wait.lock);
	return seen && is_asleep(r);
}

static void full_pool_is_retried(struct kunit *test)
{
	struct request **map = alloc_slot_map(test), *r;
	struct test_pool *pool = default_pool(test);

	fill_slot_by_slot(test, pool, map);
	/* Admitted, as the serialized request, but there is no room for it. */
	r = start_waiter(test, pool, 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).nr_retry, 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).throttled, 0);
	unmap_request(map[17]);
	expect_done(test, r);
}

static void fragmented_pool_is_retried(struct kunit *test)
{
	struct request **map = alloc_slot_map(test), *r;
	struct test_pool *pool = default_pool(test);
	int i;

	fill_slot_by_slot(test, pool, map);
	/* There are many free slots, but no two of them side by side. */
	for (i = 2; i < NSLABS; i += 4)
		unmap_request(map[i]);
	r = start_waiter(test, pool, 2);
	KUNIT_EXPECT_EQ(test, stats_of(pool).nr_retry, 1);

	/* Worth another look, which is in vain: its neighbour is taken. */
	unmap_request(map[0]);
	KUNIT_ASSERT_TRUE(test, wait_for(has_retried(pool, r)));

	unmap_request(map[1]);
	expect_done(test, r);
}

static void retry_passes_the_word_on(struct kunit *test)
{
	struct request **map = alloc_slot_map(test), *big, *small;
	struct test_pool *pool = default_pool(test);
	int i;

	fill_slot_by_slot(test, pool, map);
	for (i = 0; i < NSLABS; i += 2)
		unmap_request(map[i]);
	set_thresholds(test, 90, 80);
	big = start_waiter(test, pool, 6);
	small = start_waiter(test, pool, 2);
	KUNIT_EXPECT_EQ(test, stats_of(pool).nr_retry, 2);

	/* The one unmap wakes the first, which cannot use it. */
	unmap_request(map[31]);
	expect_done(test, small);
	KUNIT_EXPECT_FALSE(test, is_done(big));

	for (i = 1; i < 9; i += 2)
		unmap_request(map[i]);
	expect_done(test, big);
}

static void retry_holds_others_back(struct kunit *test)
{
	struct request **map = alloc_slot_map(test), *r, *others;
	struct test_pool *pool = default_pool(test);
	int i;

	fill_slot_by_slot(test, pool, map);
	for (i = 0; i < NSLABS; i += 2)
		unmap_request(map[i]);
	set_thresholds(test, 90, 80);
	r = start_waiter(test, pool, 2);
	KUNIT_EXPECT_EQ(test, stats_of(pool).nr_retry, 1);
	KUNIT_ASSERT_TRUE(test, wait_for(READ_ONCE(pool->t->drain)));

	/* Slots are many, and still only one request at a time is let through. */
	map_blocking(test, pool, 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);
	others = start_waiter(test, pool, 1);
	unmap_request(map[31]);
	expect_done(test, r);
	expect_done(test, others);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);
}

static void others_are_not_held_back_for_long(struct kunit *test)
{
	struct request **map = alloc_slot_map(test), *r, *others;
	struct test_pool *pool = default_pool(test);
	int i;

	fill_slot_by_slot(test, pool, map);
	for (i = 0; i < NSLABS; i += 2)
		unmap_request(map[i]);
	set_thresholds(test, 90, 80);
	r = start_waiter(test, pool, 2);
	KUNIT_ASSERT_TRUE(test, wait_for(READ_ONCE(pool->t->drain)));
	map_blocking(test, pool, 1);
	others = start_waiter(test, pool, 1);
	/* Without an unmap. */
	expect_done(test, others);
	KUNIT_EXPECT_FALSE(test, is_done(r));
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);
	unmap_request(map[31]);
	expect_done(test, r);
}

static void admitted_request_is_retried_as_a_whole(struct kunit *test)
{
	struct request **map = alloc_slot_map(test), *r;
	struct test_pool *pool = default_pool(test);
	int i;

	fill_slot_by_slot(test, pool, map);
	for (i = 0; i < NSLABS; i += 2)
		unmap_request(map[i]);
	r = new_request(test, pool, 1, DMA_ATTR_MAY_BLOCK);
	r->type = ADMIT;
	add_piece(r, 3);
	start_sleeper(test, r);
	KUNIT_EXPECT_EQ(test, stats_of(pool).nr_retry, 1);
	KUNIT_EXPECT_EQ(test, used_in(pool), NSLABS / 2 + r->total);
	for (i = 0; i < NSLABS; i += 2)
		KUNIT_EXPECT_EQ(test, map_request(map[i]), 0);
	for (i = 0; i < NSLABS; i += 2)
		unmap_request(map[i]);
	for (i = 1; i < 16; i += 2)
		unmap_request(map[i]);
	expect_done(test, r);
}

/* Its first piece takes all the contiguous room there is; another one wants it. */
struct undone {
	struct request *holds;
	struct request *wants;
	unsigned long attrs;
};

static struct undone *start_undone(struct kunit *test, struct test_pool *pool)
{
	struct request **map = alloc_slot_map(test);
	struct undone *u;
	int i;

	u = kunit_kzalloc(test, sizeof(*u), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, u);
	fill_slot_by_slot(test, pool, map);
	unmap_request(map[30]);
	unmap_request(map[31]);
	set_thresholds(test, 99, 80);
	u->holds = new_request(test, pool, 2, 0);
	KUNIT_ASSERT_EQ(test, admit_request(u->holds, &u->attrs), 0);
	KUNIT_ASSERT_EQ(test, map_piece(u->holds, 0, u->attrs), 0);
	for (i = 0; i < 8; i += 2)
		unmap_request(map[i]);
	u->wants = start_waiter(test, pool, 2);
	KUNIT_EXPECT_EQ(test, stats_of(pool).nr_retry, 1);
	return u;
}

static void unadmit_tells_who_retries(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct undone *u = start_undone(test, pool);
	unsigned long seq;

	unmap_piece(u->holds, 0, DMA_ATTR_UNDO);
	seq = READ_ONCE(pool->t->retry_seq);
	dma_unadmit(pool->dev, u->holds->total, u->attrs);
	/* On a slow machine it may have found it by then. */
	KUNIT_EXPECT_TRUE(test, READ_ONCE(pool->t->retry_seq) != seq ||
			  is_done(u->wants));
	expect_done(test, u->wants);
}

/* Who undoes what it holds, and tries again later, tells nobody. */
static void retry_finds_what_was_undone(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct undone *u = start_undone(test, pool);

	/* No longer is it the one for which others are held back. */
	KUNIT_ASSERT_TRUE(test, wait_for(READ_ONCE(pool->t->drain)));
	KUNIT_ASSERT_TRUE(test, wait_for(!READ_ONCE(pool->t->drain)));
	unmap_piece(u->holds, 0, DMA_ATTR_UNDO);
	expect_done(test, u->wants);
	/* Not because its time was up. */
	KUNIT_EXPECT_LT(test, u->wants->waited_ms, default_params.cap_ms / 2);
	dma_unadmit(pool->dev, u->holds->total, u->attrs);
}

static void list_is_retried_holding_nothing(struct kunit *test)
{
	struct request **map = alloc_slot_map(test), *r;
	struct test_pool *pool = default_pool(test);
	int i;

	fill_slot_by_slot(test, pool, map);
	for (i = 0; i < NSLABS; i += 2)
		unmap_request(map[i]);

	r = new_request(test, pool, 1, DMA_ATTR_MAY_BLOCK);
	r->type = LIST;
	add_piece(r, 1);
	add_piece(r, 3);
	/* There is room for the first pieces, but not for the last. */
	start_sleeper(test, r);
	KUNIT_EXPECT_EQ(test, stats_of(pool).nr_retry, 1);
	KUNIT_EXPECT_EQ(test, used_in(pool), NSLABS / 2 + r->total);

	/* Every slot that was free is still there for others. */
	for (i = 0; i < NSLABS; i += 2)
		KUNIT_EXPECT_EQ(test, map_request(map[i]), 0);

	/* They may be in other places now. */
	for (i = 0; i < NSLABS; i += 2)
		unmap_request(map[i]);
	for (i = 1; i < 16; i += 2)
		unmap_request(map[i]);
	expect_done(test, r);
	KUNIT_EXPECT_EQ(test, used_in(pool), NSLABS / 2 - 8 + r->total);
}

static void list_waits_once_for_all(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct crowd *crowd;
	struct request *r;
	int i;

	crowd = fill_pool(test, pool);
	r = new_request(test, pool, 2, DMA_ATTR_MAY_BLOCK);
	r->type = LIST;
	add_piece(r, 3);
	add_piece(r, HIGH / 2);
	start_sleeper(test, r);
	KUNIT_EXPECT_EQ(test, used_in(pool), HIGH + 1);

	/* Room for the first two pieces is not enough. */
	for (i = HIGH; i > LOW - 1; i--)
		unmap_request(crowd->plain[i - 1]);
	expect_waiting(test, pool, 1);
	for (; i > LOW - 1 - 5; i--)
		unmap_request(crowd->plain[i - 1]);
	expect_done(test, r);
	KUNIT_EXPECT_EQ(test, stats_of(pool).throttled, 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).wakeups, 1);
	KUNIT_EXPECT_EQ(test, used_in(pool), HIGH);
}

static void raised_threshold_releases(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *r;

	fill_pool(test, pool);
	r = start_waiter(test, pool, 2);
	set_thresholds(test, default_params.high + 1, default_params.low);
	expect_waiting(test, pool, 1);
	set_thresholds(test, 75, default_params.low);
	expect_done(test, r);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);
}

static void off_releases(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *r;
	int i;

	fill_pool(test, pool);
	r = start_waiter(test, pool, 2);
	set_thresholds(test, 100, default_params.low);
	expect_done(test, r);
	/* Nobody is held up any more. */
	for (i = used_in(pool); i < NSLABS; i++)
		map_blocking(test, pool, 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).throttled, 1);
}

static void off_ends_retry(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *r;

	map_plain(test, pool, NSLABS);
	r = start_waiter(test, pool, 1);
	set_thresholds(test, 100, default_params.low);
	expect_failed(test, r);
}

static void bad_params_change_nothing(struct kunit *test)
{
	static const struct swiotlb_throttle_params bad[] = {
		{ .high = 101, .low = 25, .stall_ms = 100, .cap_ms = 200 },
		{ .high = 50, .low = 51, .stall_ms = 100, .cap_ms = 200 },
		{ .high = 50, .low = -1, .stall_ms = 100, .cap_ms = 200 },
		{ .high = -1, .low = -1, .stall_ms = 100, .cap_ms = 200 },
		{ .high = -1, .low = 0, .stall_ms = 100, .cap_ms = 200 },
		{ .high = 50, .low = 25, .stall_ms = 0, .cap_ms = 200 },
		{ .high = 50, .low = 25, .stall_ms = -1, .cap_ms = 200 },
		{ .high = 50, .low = 25, .stall_ms = 201, .cap_ms = 200 },
		{ .high = 50, .low = 25, .stall_ms = 100, .cap_ms = -1 },
		{ .high = 50, .low = 25, .stall_ms = 100,
		  .cap_ms = SWIOTLB_THROTTLE_MAX_MS + 1 },
		{ .high = INT_MAX, .low = INT_MIN, .stall_ms = INT_MIN,
		  .cap_ms = INT_MAX },
	};
	struct test_pool *pool = default_pool(test);
	int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		KUNIT_EXPECT_EQ_MSG(test, swiotlb_throttle_set_params(&bad[i]),
				    -EINVAL, "row %d", i);
		KUNIT_EXPECT_MEMEQ_MSG(test, &swiotlb_throttle_params,
				       &default_params, sizeof(default_params),
				       "row %d", i);
		KUNIT_EXPECT_EQ(test, stats_of(pool).high, HIGH);
		KUNIT_EXPECT_EQ(test, stats_of(pool).low, LOW);
	}
}

static void changed_timeout_ends_wait(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *r;

	pool->timed_out = 1;
	fill_pool(test, pool);
	r = start_waiter(test, pool, 2);
	set_timeouts(test, 100, SWIOTLB_THROTTLE_MAX_MS);
	expect_done(test, r);
}

static void changed_cap_ends_wait(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct crowd *crowd;
	struct request *r;

	pool->capped = 1;
	crowd = fill_pool(test, pool);
	r = start_waiter(test, pool, 2);
	msleep(1000);
	/* Not a stall. */
	unmap_request(crowd->plain[0]);
	KUNIT_ASSERT_EQ(test, map_request(crowd->plain[0]), 0);
	set_timeouts(test, 1000, 1000);
	expect_done(test, r);
}

static void changed_timeout_ends_retry(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *r;

	pool->timed_out = 1;
	map_plain(test, pool, NSLABS);
	r = start_waiter(test, pool, 1);
	set_timeouts(test, 100, SWIOTLB_THROTTLE_MAX_MS);
	expect_failed(test, r);
}

struct irq_unmap {
	struct hrtimer timer;
	struct request *request;
	bool in_hardirq;
};

static enum hrtimer_restart unmap_in_irq(struct hrtimer *timer)
{
	struct irq_unmap *irq = container_of(timer, struct irq_unmap, timer);

	irq->in_hardirq = in_hardirq();
	unmap_request(irq->request);
	return HRTIMER_NORESTART;
}

static void hard_irq_unmap_wakes(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct irq_unmap irq;
	struct crowd *crowd;
	struct request *r;

	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		kunit_skip(test, "the locks of swiotlb sleep");

	crowd = fill_pool(test, pool);
	r = start_waiter(test, pool, 1);
	irq.request = crowd->serialized;
	hrtimer_setup_on_stack(&irq.timer, unmap_in_irq, CLOCK_MONOTONIC,
			       HRTIMER_MODE_REL);
	hrtimer_start(&irq.timer, ms_to_ktime(1), HRTIMER_MODE_REL);
	KUNIT_EXPECT_TRUE(test, wait_for(is_done(r)));
	hrtimer_cancel(&irq.timer);
	destroy_hrtimer_on_stack(&irq.timer);
	KUNIT_EXPECT_EQ(test, r->err, 0);
	KUNIT_EXPECT_TRUE(test, irq.in_hardirq);
}

static void pools_are_separate(struct kunit *test)
{
	struct test_pool *full = default_pool(test);
	struct test_pool *other = new_pool(test, 2 * NSLABS, 1, "other");
	struct request *r;
	int i;

	fill_pool(test, full);
	r = start_waiter(test, full, 1);

	/* The thresholds are percentages of each pool's own size. */
	for (i = 0; i < 2 * HIGH; i++)
		map_blocking(test, other, 1);
	KUNIT_EXPECT_EQ(test, stats_of(other).serialized, 0);
	/* It has a serialized place of its own, too. */
	unmap_request(map_blocking(test, other, 1));
	KUNIT_EXPECT_EQ(test, stats_of(other).serialized, 1);
	KUNIT_EXPECT_EQ(test, stats_of(other).throttled, 0);
	KUNIT_EXPECT_EQ(test, used_in(full), HIGH + 1);
	expect_waiting(test, full, 1);

	set_thresholds(test, 90, 80);
	expect_done(test, r);
}

static void admit_refuses_above_high(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *r, *r2;

	r = new_request(test, pool, 2, 0);
	r->type = ADMIT;
	map_plain(test, pool, HIGH - 2);
	KUNIT_EXPECT_EQ(test, map_request(r), 0);
	/* The serialized place is there for it, too. */
	r2 = new_request(test, pool, 1, 0);
	r2->type = ADMIT;
	KUNIT_EXPECT_EQ(test, map_request(r2), 0);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots, 1);

	r = new_request(test, pool, 1, 0);
	r->type = ADMIT;
	KUNIT_EXPECT_EQ(test, map_request(r), -EAGAIN);
	KUNIT_EXPECT_EQ(test, used_in(pool), HIGH + 1);
	KUNIT_EXPECT_EQ(test, stats_of(pool).waiting, 0);
	KUNIT_EXPECT_EQ(test, stats_of(pool).throttled, 0);

	unmap_request(r2);
	KUNIT_EXPECT_EQ(test, map_request(r), 0);
}

static void admit_does_not_pass_waiters(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *waiter, *r;
	struct crowd *crowd;
	int i;

	crowd = fill_pool(test, pool);
	waiter = start_waiter(test, pool, HIGH / 2 - 2);
	for (i = HIGH; i > LOW + 4; i--)
		unmap_request(crowd->plain[i - 1]);
	r = new_request(test, pool, 1, 0);
	r->type = ADMIT;
	KUNIT_EXPECT_EQ(test, map_request(r), -EAGAIN);
	expect_waiting(test, pool, 1);

	/* It was in nobody's way, either. */
	for (; i > LOW - 1; i--)
		unmap_request(crowd->plain[i - 1]);
	expect_done(test, waiter);
	KUNIT_EXPECT_EQ(test, map_request(r), 0);
}

static void unadmit_releases_waiter(struct kunit *test)
{
	unsigned long attrs = DMA_ATTR_MAY_BLOCK;
	struct test_pool *pool = default_pool(test);
	struct request *r, *waiter;

	map_plain(test, pool, LOW - 1);
	r = new_request(test, pool, HIGH - (LOW - 1), 0);
	KUNIT_ASSERT_EQ(test, admit_request(r, &attrs), 0);
	map_blocking(test, pool, 1);
	waiter = start_waiter(test, pool, 4);
	dma_unadmit(pool->dev, r->total, attrs);
	expect_done(test, waiter);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serialized, 1);
}

static void unadmit_gives_serialized_place_back(struct kunit *test)
{
	unsigned long attrs = DMA_ATTR_MAY_BLOCK;
	struct test_pool *pool = default_pool(test);
	struct request *r, *waiter;

	map_plain(test, pool, HIGH);
	r = new_request(test, pool, 5, 0);
	KUNIT_ASSERT_EQ(test, admit_request(r, &attrs), 0);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots, 5);
	waiter = start_waiter(test, pool, 4);
	dma_unadmit(pool->dev, r->total, attrs);
	expect_done(test, waiter);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots, 4);
}

/* A piece finds no room; what is mapped is undone, and the request given up. */
static void give_up_admitted(struct kunit *test, struct test_pool *pool,
			     bool serialized)
{
	unsigned long attrs = DMA_ATTR_MAY_BLOCK;
	s64 before = used_in(pool);
	struct request *r;

	r = new_request(test, pool, 1, 0);
	add_piece(r, 1);
	add_piece(r, 4);
	KUNIT_ASSERT_EQ(test, admit_request(r, &attrs), 0);
	KUNIT_EXPECT_EQ(test, used_in(pool), before + 6);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots,
			serialized ? 6 : 0);

	KUNIT_EXPECT_NE(test, map_admitted(r, attrs), 0);
	/* Undone, but still promised: it might be mapped again. */
	KUNIT_EXPECT_EQ(test, used_in(pool), before + 6);
	KUNIT_EXPECT_NE(test, map_admitted(r, attrs), 0);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots,
			serialized ? 6 : 0);

	dma_unadmit(pool->dev, r->total, attrs);
	KUNIT_EXPECT_EQ(test, used_in(pool), before);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots, 0);
}

static void admitted_request_is_given_up(struct kunit *test)
{
	struct request **map = alloc_slot_map(test);
	struct test_pool *pool = default_pool(test);
	int i;

	fill_slot_by_slot(test, pool, map);
	for (i = 0; i < NSLABS; i += 2)
		unmap_request(map[i]);
	give_up_admitted(test, pool, true);
	set_thresholds(test, 75, 50);
	give_up_admitted(test, pool, false);
}

static void failed_maps_leave_nothing(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct request *r;

	map_plain(test, pool, NSLABS);
	set_timeouts(test, 50, 100);

	r = new_request(test, pool, 3, 0);
	KUNIT_EXPECT_NE(test, map_request(r), 0);
	KUNIT_EXPECT_EQ(test, used_in(pool), NSLABS);
	r->type = LIST;
	add_piece(r, 2);
	KUNIT_EXPECT_NE(test, map_request(r), 0);
	KUNIT_EXPECT_EQ(test, used_in(pool), NSLABS);

	r->attrs = DMA_ATTR_MAY_BLOCK;
	KUNIT_EXPECT_NE(test, map_request(r), 0);
	r->type = ADMIT;
	KUNIT_EXPECT_NE(test, map_request(r), 0);
	r->type = SINGLE;
	KUNIT_EXPECT_NE(test, map_request(r), 0);
	KUNIT_EXPECT_EQ(test, used_in(pool), NSLABS);
	KUNIT_EXPECT_EQ(test, stats_of(pool).serial_slots, 0);
	pool->timed_out = 3;
}

static void recommended_where_all_is_bounced(struct kunit *test)
{
	struct test_pool *pool = default_pool(test);
	struct device *dev = pool->dev;

	KUNIT_EXPECT_TRUE(test, dma_recommend_may_block(dev));

	pool->mem->force_bounce = false;
	KUNIT_EXPECT_FALSE(test, dma_recommend_may_block(dev));
	pool->mem->force_bounce = true;

	dev->dma_io_tlb_mem = NULL;
	KUNIT_EXPECT_FALSE(test, dma_recommend_may_block(dev));
	dev->dma_io_tlb_mem = pool->mem;

	if (IS_ENABLED(CONFIG_ARCH_HAS_DMA_OPS)) {
		static const struct dma_map_ops ops = {};

		set_dma_ops(dev, &ops);
		KUNIT_EXPECT_FALSE(test, dma_recommend_may_block(dev));
		set_dma_ops(dev, NULL);
	}
	KUNIT_EXPECT_TRUE(test, dma_recommend_may_block(dev));
}

/**
 * struct stress - threads that map, and others that unmap
 * @pool:	The pool.
 * @dev:	Devices that share it.
 * @buffer:	What is mapped.
 * @mixed:	All kinds of requests, not just single maps that may block.
 * @seed:	To draw from.
 * @ops:	Maps and unmaps of pieces that are still to be done.
 * @mappers:	Threads that are not done with that.
 * @lock:	See @mapped.
 * @mapped:	Requests that wait to be unmapped.
 * @blocking:	Slots held by requests that could wait.
 * @peak:	Most that @blocking ever was.
 * @failed:	Requests that could wait and failed all the same.
 * @nomem:	There was no memory for a request.
 */
struct stress {
	struct test_pool *pool;
	struct device *dev[STRESS_DEVICES];
	void *buffer;
	bool mixed;
	u32 seed;
	atomic_long_t ops;
	atomic_t mappers;
	spinlock_t lock; /* of the list */
	struct list_head mapped;
	atomic_t blocking;
	atomic_t peak;
	atomic_t failed;
	atomic_t nomem;
};

struct stress_thread {
	struct stress *s;
	u32 nr;
	struct task_struct *task;
};

static u32 draw(struct rnd_state *rnd, u32 from, u32 to)
{
	return from + prandom_u32_state(rnd) % (to - from + 1);
}

static void draw_request(struct stress *s, struct request *r,
			 struct rnd_state *rnd)
{
	int nr = 1;

	r->buffer = s->buffer;
	r->dev = s->dev[draw(rnd, 0, STRESS_DEVICES - 1)];
	r->attrs = DMA_ATTR_MAY_BLOCK;
	if (!s->mixed) {
		add_piece(r, 1);
		return;
	}
	r->type = draw(rnd, SINGLE, ADMIT);
	if (r->type != SINGLE)
		nr = draw(rnd, 1, MAX_PIECES);
	if (r->type != ADMIT && draw(rnd, 1, 4) == 1)
		r->attrs = 0;
	while (nr--)
		add_piece(r, draw(rnd, 1, STRESS_MAX_SLOTS));
}

/* As a driver does that holds a lock, or has requests it did not submit yet. */
static int map_request_refused_first(struct request *r)
{
	int err;

	r->attrs = 0;
	err = map_request(r);
	if (err) {
		r->attrs = DMA_ATTR_MAY_BLOCK;
		err = map_request(r);
	}
	return err;
}

static void count_blocking(struct stress *s, struct request *r)
{
	int now = atomic_add_return(r->total, &s->blocking);
	int peak = atomic_read(&s->peak);

	while (now > peak && !atomic_try_cmpxchg(&s->peak, &peak, now))
		;
}

static int stress_mapper(void *data)
{
	struct stress_thread *thread = data;
	struct stress *s = thread->s;
	struct rnd_state rnd;
	struct request *r;
	int err;

	prandom_seed_state(&rnd, s->seed + thread->nr);
	while (atomic_long_read(&s->ops) > 0) {
		r = kzalloc_obj(*r);
		if (!r) {
			atomic_inc(&s->nomem);
			break;
		}
		draw_request(s, r, &rnd);
		atomic_long_sub(2 * r->nr, &s->ops);
		if (r->type == ADMIT && draw(&rnd, 0, 1))
			err = map_request_refused_first(r);
		else
			err = map_request(r);
		if (err) {
			if (r->attrs)
				atomic_inc(&s->failed);
			kfree(r);
			continue;
		}
		if (r->type == ADMIT || r->attrs)
			count_blocking(s, r);
		spin_lock(&s->lock);
		list_add_tail(&r->node, &s->mapped);
		spin_unlock(&s->lock);
		cond_resched();
	}
	atomic_dec(&s->mappers);
	return 0;
}

static struct request *stress_first_mapped(struct stress *s)
{
	struct request *r;

	spin_lock(&s->lock);
	r = list_first_entry_or_null(&s->mapped, struct request, node);
	if (r)
		list_del(&r->node);
	spin_unlock(&s->lock);
	return r;
}

/* Only what somebody waits for is unmapped, to keep the pool short of slots. */
static int stress_unmapper(void *data)
{
	struct stress_thread *thread = data;
	struct stress *s = thread->s;
	struct request *r;
	bool last;

	do {
		last = !atomic_read(&s->mappers);
		while (last || READ_ONCE(s->pool->t->waiting)) {
			r = stress_first_mapped(s);
			if (!r)
				break;
			if (r->type == ADMIT || r->attrs)
				atomic_sub(r->total, &s->blocking);
			unmap_request(r);
			kfree(r);
			cond_resched();
		}
		usleep_range(50, 100);
	} while (!last);
	return 0;
}

static struct stress *new_stress(struct kunit *test, bool mixed,
				 unsigned long ops)
{
	struct test_state *state = test->priv;
	struct stress *s;

	s = kunit_kzalloc(test, sizeof(*s), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, s);
	s->pool = new_pool(test, STRESS_NSLABS, 2, "dev");
	s->dev[0] = s->pool->dev;
	s->dev[1] = new_device(test, s->pool->mem, "dev2");
	s->buffer = state->buffer;
	s->mixed = mixed;
	s->seed = seed ?: get_random_u32();
	atomic_long_set(&s->ops, ops);
	spin_lock_init(&s->lock);
	INIT_LIST_HEAD(&s->mapped);
	kunit_info(test, "seed %u, %lu maps and unmaps\n", s->seed, ops);
	return s;
}

/*
 * Run it. @change, if there is one, is called from time to time meanwhile, and
 * sets the parameters.
 */
static void run_stress(struct kunit *test, struct stress *s,
		       void (*change)(struct kunit *test, struct rnd_state *rnd))
{
	struct stress_thread thread[STRESS_MAPPERS + STRESS_UNMAPPERS] = {};
	struct rnd_state rnd;
	int i;

	for (i = 0; i < ARRAY_SIZE(thread); i++) {
		thread[i].s = s;
		thread[i].nr = i;
		thread[i].task = create_thread(test, i < STRESS_MAPPERS ?
					       stress_mapper : stress_unmapper,
					       &thread[i]);
	}
	atomic_set(&s->mappers, STRESS_MAPPERS);
	for (i = 0; i < ARRAY_SIZE(thread); i++)
		wake_up_process(thread[i].task);

	prandom_seed_state(&rnd, s->seed + ARRAY_SIZE(thread));
	while (atomic_read(&s->mappers)) {
		if (change)
			change(test, &rnd);
		msleep(20);
	}

	for (i = 0; i < ARRAY_SIZE(thread); i++)
		kthread_stop_put(thread[i].task);
	KUNIT_EXPECT_EQ(test, atomic_read(&s->nomem), 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&s->blocking), 0);
	/* It was short of slots. */
	KUNIT_EXPECT_GT(test, stats_of(s->pool).throttled, 0);
	kunit_info(test, "%lu throttled, %lu serialized, longest wait %lld us\n",
		   stats_of(s->pool).throttled,
		   stats_of(s->pool).serialized,
		   stats_of(s->pool).longest_wait / NSEC_PER_USEC);
}

static void limit_holds_under_load(struct kunit *test)
{
	struct stress *s = new_stress(test, false, 50000);
	int high = STRESS_NSLABS * default_params.high / 100;

	run_stress(test, s, NULL);
	/* One is for the serialized request. */
	KUNIT_EXPECT_LE(test, atomic_read(&s->peak), high + 1);
	KUNIT_EXPECT_GE(test, atomic_read(&s->peak), high);
	KUNIT_EXPECT_EQ(test, atomic_read(&s->failed), 0);
}

static void change_thresholds(struct kunit *test, struct rnd_state *rnd)
{
	int high = draw(rnd, 20, STRESS_MAX_HIGH);

	set_thresholds(test, high, draw(rnd, 0, high));
}

static void random_operations(struct kunit *test)
{
	struct stress *s = new_stress(test, true, random_ops);

	run_stress(test, s, change_thresholds);
	KUNIT_EXPECT_LE(test, atomic_read(&s->peak),
			STRESS_NSLABS * STRESS_MAX_HIGH / 100 +
			MAX_PIECES * STRESS_MAX_SLOTS);
	KUNIT_EXPECT_EQ(test, atomic_read(&s->failed), 0);
}

static void change_all_params(struct kunit *test, struct rnd_state *rnd)
{
	int high = draw(rnd, 1, 10) == 1 ? 100 : draw(rnd, 20, 99);
	int stall = draw(rnd, 1, 30);

	set_params(test, high, draw(rnd, 0, high), stall,
		   draw(rnd, stall, 2 * stall));
}

/*
 * Waits time out all the time, and throttling is switched off and on again:
 * maps may fail, and nothing is known about the peak, but the account must be
 * right.
 */
static void random_operations_with_timeouts(struct kunit *test)
{
	struct stress *s = new_stress(test, true, random_ops / 10);

	s->pool->any_timeout = true;
	run_stress(test, s, change_all_params);
}

static struct kunit_case throttle_test_cases[] = {
	KUNIT_CASE(admitted_up_to_high),
	KUNIT_CASE(admitted_to_the_last_slot),
	KUNIT_CASE(plain_maps_never_wait),
	KUNIT_CASE(plain_maps_take_from_the_room),
	KUNIT_CASE(serialized_above_high),
	KUNIT_CASE(place_is_kept_until_last_unmap),
	KUNIT_CASE(one_unmap_releases_all_who_fit),
	KUNIT_CASE(slow_disk_does_not_delay_fast_disk),
	KUNIT_CASE(device_keeps_to_its_share),
	KUNIT_CASE(set_aside_do_not_come_first),
	KUNIT_CASE_SLOW(share_of_idle_device_is_free),
	KUNIT_CASE_SLOW(newcomer_finds_idle_share),
	KUNIT_CASE(set_aside_for_a_limited_time),
	KUNIT_CASE(set_aside_are_released_by_off),
	KUNIT_CASE(admit_refuses_more_than_a_share),
	KUNIT_CASE_SLOW(devices_beyond_the_shares),
	KUNIT_CASE(per_cpu_residue_strands_nobody),
	KUNIT_CASE(waiters_go_in_order),
	KUNIT_CASE(newcomer_does_not_pass),
	KUNIT_CASE(one_wakeup_per_admission),
	KUNIT_CASE(larger_than_high),
	KUNIT_CASE(larger_than_a_mapping),
	KUNIT_CASE(stall_then_map_succeeds),
	KUNIT_CASE(stall_then_map_fails),
	KUNIT_CASE_SLOW(steady_frees_are_no_stall),
	KUNIT_CASE_SLOW(wait_is_capped),
	KUNIT_CASE_SLOW(next_goes_when_head_gives_up),
	KUNIT_CASE(full_pool_is_retried),
	KUNIT_CASE(fragmented_pool_is_retried),
	KUNIT_CASE(retry_passes_the_word_on),
	KUNIT_CASE(retry_holds_others_back),
	KUNIT_CASE(others_are_not_held_back_for_long),
	KUNIT_CASE(admitted_request_is_retried_as_a_whole),
	KUNIT_CASE(unadmit_tells_who_retries),
	KUNIT_CASE(retry_finds_what_was_undone),
	KUNIT_CASE(list_is_retried_holding_nothing),
	KUNIT_CASE(list_waits_once_for_all),
	KUNIT_CASE(raised_threshold_releases),
	KUNIT_CASE(off_releases),
	KUNIT_CASE(off_ends_retry),
	KUNIT_CASE(bad_params_change_nothing),
	KUNIT_CASE(changed_timeout_ends_wait),
	KUNIT_CASE_SLOW(changed_cap_ends_wait),
	KUNIT_CASE(changed_timeout_ends_retry),
	KUNIT_CASE(hard_irq_unmap_wakes),
	KUNIT_CASE(pools_are_separate),
	KUNIT_CASE(admit_refuses_above_high),
	KUNIT_CASE(admit_does_not_pass_waiters),
	KUNIT_CASE(unadmit_releases_waiter),
	KUNIT_CASE(unadmit_gives_serialized_place_back),
	KUNIT_CASE(admitted_request_is_given_up),
	KUNIT_CASE(failed_maps_leave_nothing),
	KUNIT_CASE(recommended_where_all_is_bounced),
	KUNIT_CASE_SLOW(limit_holds_under_load),
	KUNIT_CASE_SLOW(random_operations),
	KUNIT_CASE_SLOW(random_operations_with_timeouts),
	{}
};

static struct kunit_suite throttle_test_suite = {
	.name = "swiotlb_throttle",
	.init = throttle_test_init,
	.exit = throttle_test_exit,
	.test_cases = throttle_test_cases,
};

kunit_test_suite(throttle_test_suite);

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_DESCRIPTION("KUnit tests for swiotlb throttling");
MODULE_LICENSE("GPL");
