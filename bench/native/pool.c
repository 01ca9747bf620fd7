// SPDX-License-Identifier: GPL-2.0
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
#include "pool.h"

struct io_tlb_mem pool_mem;
struct device pool_devs[SHIM_DEVICES];
long pool_used, pool_serial, pool_admitted, pool_admitted_peak;
bool pool_strict;
unsigned int pool_scattered;
__thread u64 pool_seed = 88172645463325252ULL;
struct shim_counts pool_counts;

void pool_make(unsigned long nslabs, unsigned int cpus)
{
	shim_nr_cpus = cpus;
	pool_mem = (struct io_tlb_mem){ .defpool.nslabs = nslabs, .nslabs = nslabs, .force_bounce = true };
	for (int i = 0; i < SHIM_DEVICES; i++)
		pool_devs[i].dma_io_tlb_mem = &pool_mem;
	pool_used = pool_serial = pool_admitted = pool_admitted_peak = 0;
	swiotlb_throttle_resize(&pool_mem);
	if (!pool_throttle)
		abort();
}

void pool_drop(void)
{
	swiotlb_throttle_detach(&pool_mem);
}

long pool_held(unsigned int device)
{
	struct throttle_share *share = pool_throttle->shares;

	for (; share < pool_throttle->shares + THROTTLE_SHARES; share++)
		if (READ_ONCE(share->dev) == &pool_devs[device])
			return atomic_long_read(&share->held);
	return 0;
}

static bool pool_take(unsigned int slots)
{
	long used = READ_ONCE(pool_used), nslabs = pool_mem.nslabs;

	if (used > nslabs / 2 && pool_random(&pool_seed) % 256 < READ_ONCE(pool_scattered))
		return false;
	do {
		if (used + slots > nslabs)
			return false;
	} while (!__atomic_compare_exchange_n(&pool_used, &used, used + slots, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return true;
}

static void pool_note_admitted(unsigned int slots, unsigned char slot)
{
	long now, peak;

	if (slot & SWIOTLB_SLOT_SERIALIZED) {
		__atomic_add_fetch(&pool_serial, slots, __ATOMIC_RELAXED);
		return;
	}
	now = __atomic_add_fetch(&pool_admitted, slots, __ATOMIC_RELAXED);
	peak = READ_ONCE(pool_admitted_peak);
	while (now > peak && !__atomic_compare_exchange_n(&pool_admitted_peak, &peak, now, true,
							   __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

bool pool_map(unsigned int slots, unsigned long attrs, unsigned char *slot)
{
	struct dma_retry retry;
	unsigned long throttle;
	bool found;

	throttle = swiotlb_throttle_begin(&pool_dev, (size_t)slots * IO_TLB_SIZE, attrs);
	dma_retry_init(&retry);
	do {
		found = pool_take(slots);
	} while (swiotlb_throttle_retry(&pool_dev, throttle, !found, &retry));
	if (!found) {
		swiotlb_throttle_abort(&pool_dev, (size_t)slots * IO_TLB_SIZE, throttle);
		return false;
	}
	*slot = swiotlb_throttle_slot(throttle);
	if (pool_strict)
		pool_note_admitted(slots, *slot);
	return true;
}

void pool_unmap(unsigned int slots, unsigned char slot)
{
	if (pool_strict)
		__atomic_sub_fetch(slot & SWIOTLB_SLOT_SERIALIZED ? &pool_serial : &pool_admitted, slots, __ATOMIC_RELAXED);
	__atomic_sub_fetch(&pool_used, slots, __ATOMIC_RELAXED);
	swiotlb_throttle_release(&pool_dev, slots, slot);
}

bool pool_map_list(struct scatterlist *sgl, int nents, unsigned long attrs, unsigned char *slot)
{
	unsigned int slots;
	struct dma_retry retry;
	int i;

	slots = swiotlb_throttle_admit_sg(&pool_dev, sgl, nents, &attrs);
	dma_retry_init(&retry);
again:
	for (i = 0; i < nents; i++)
		if (!pool_map(sgl[i].length / IO_TLB_SIZE, swiotlb_throttle_piece(attrs, i, &retry), &slot[i]))
			goto undo;
	swiotlb_throttle_retry_list(&pool_dev, attrs, false, i, &retry);
	return true;

undo:
	for (int j = 0; j < i; j++)
		pool_unmap(sgl[j].length / IO_TLB_SIZE,
			   slot[j] | (swiotlb_throttle_undo(attrs) & DMA_ATTR_UNDO ? SWIOTLB_SLOT_UNDONE : 0));
	if (swiotlb_throttle_retry_list(&pool_dev, attrs, true, i, &retry))
		goto again;
	if (slots)
		swiotlb_throttle_unadmit(&pool_dev, slots, attrs);
	return false;
}

void pool_add_counts(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	unsigned long *to = (unsigned long *)&pool_counts, *from = (unsigned long *)&shim_counts;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < sizeof(pool_counts) / sizeof(*to); i++) {
		to[i] += from[i];
		from[i] = 0;
	}
	pthread_mutex_unlock(&lock);
}

/* The argument of a thread is its number. */
void pool_threads(unsigned int n, void *(*fn)(void *))
{
	pthread_t thread[n];
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 256 << 10);
	for (uintptr_t i = 0; i < n; i++)
		if (pthread_create(&thread[i], &attr, fn, (void *)i))
			abort();
	for (unsigned int i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
}

static u64 watch_seed;

/* The others go on, so it races. */
__attribute__((no_sanitize("thread")))
static void stuck(int sig)
{
	struct swiotlb_throttle *t = pool_throttle;
	char text[400];

	(void)sig;
	if (write(2, text, snprintf(text, sizeof(text), "seed %lu: stuck: waiting %u, retry %u, used %ld, high %ld, low %ld, serial %ld, freed %ld, goal %ld, active %d\n",
				    watch_seed, t->waiting, t->nr_retry, pool_used, t->high, t->low, t->serial_slots, t->freed.counter, t->goal, t->active)) < 0)
		_exit(3);
	_exit(3);
}

void pool_watch(unsigned int seconds, u64 seed)
{
	watch_seed = seed;
	signal(SIGALRM, stuck);
	alarm(seconds);
}
