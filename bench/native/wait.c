// SPDX-License-Identifier: GPL-2.0
/*
 * Many tasks wait for slots: order, wakeups for each admission, longest wait over mean.
 *
 * wait -w N [-m order]: N tasks with requests of all sizes join the queue one after the other while others hold all below high; then what is
 * held is given back bit by bit.
 * wait -w N -m serial: the same, but what is held stays: they go one at a time, as serialized requests.
 * wait -w N -m load: N tasks map all the time, a device completes one request after the other, so that (nearly) all N wait at any time.
 * -h and -l are the thresholds in percent, -s the slots of a request of the load.
 */
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "pool.h"

#define NSLABS 2048
#define CPUS 16
#define CHUNK 16
#define QUEUE 4096

static long waiters = 100, slots = 64;
static u64 seed = 1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* All waits but the first one of each task, under @lock; times are in ns, the others in admissions of requests that joined the queue. */
static struct { unsigned long n, wakeups, extra, sum, longest; s64 ns, longest_ns; } waits;
static unsigned long target, maps;

/* Of the clock: kernel time is slowed down, so that nobody gives up on a busy machine. */
static s64 now(void)
{
	return ktime_get() * shim_slow;
}

/* One map that may wait; what came of the wait is noted if @count. */
static unsigned char map(unsigned int n, bool count)
{
	unsigned long sleeps = shim_counts.sleeps;
	s64 start = now(), ns;
	unsigned char slot;

	current->queued = current->slept = false;
	if (!pool_map(n, DMA_ATTR_MAY_BLOCK, &slot))
		abort();
	ns = now() - start;
	sleeps = shim_counts.sleeps - sleeps;
	pthread_mutex_lock(&lock);
	maps++;
	/* One sleep is an admission; any more were for nothing. */
	if (sleeps > 1)
		waits.extra += sleeps - 1;
	waits.wakeups += sleeps;
	if (count && current->slept) {
		waits.n++;
		waits.sum += current->waited;
		waits.longest = max(waits.longest, current->waited);
		waits.ns += ns;
		waits.longest_ns = max(waits.longest_ns, ns);
	}
	pthread_mutex_unlock(&lock);
	return slot;
}

static unsigned int size_of(long i)
{
	u64 s = seed * 2654435761 + i * 7919 + 1;

	pool_random(&s);
	return 1 + pool_random(&s) % 64;
}

static void *order_waiter(void *arg)
{
	long i = (uintptr_t)arg;
	unsigned int n = size_of(i);

	shim_cpu = i % CPUS;
	shim_cpu_shared = true;
	pool_unmap(n, map(n, true));
	pool_add_counts();
	return NULL;
}

static void order(bool serial_only)
{
	pthread_t thread[waiters];
	unsigned char slot, serial;
	long held = 0;

	shim_cpu_shared = true;
	for (held = pool_throttle->high % CHUNK; held <= pool_throttle->high - CHUNK; held += CHUNK)
		if (!pool_map(CHUNK, 0, &slot))
			abort();
	if (!pool_map(pool_throttle->high % CHUNK, 0, &slot))
		abort();
	/* The serialized place is taken, too. */
	serial = map(CHUNK, false);
	if (!(serial & SWIOTLB_SLOT_SERIALIZED))
		abort();
	for (long i = 0; i < waiters; i++) {
		if (pthread_create(&thread[i], NULL, order_waiter, (void *)(uintptr_t)i))
			abort();
		/* They come in order: the next when this one is in the queue. */
		while (READ_ONCE(pool_throttle->waiting) != i + 1)
			sched_yield();
	}
	if (serial_only)
		pool_unmap(CHUNK, serial);
	for (; held >= CHUNK && !serial_only; held -= CHUNK) {
		shim_cpu = held / CHUNK % CPUS;
		pool_unmap(CHUNK, 0);
	}
	for (long i = 0; i < waiters; i++)
		pthread_join(thread[i], NULL);
	if (!serial_only)
		pool_unmap(CHUNK, serial);
	for (; held >= CHUNK; held -= CHUNK)
		pool_unmap(CHUNK, 0);
	pool_unmap(held, 0);
	pool_add_counts();
}

static unsigned char queue[QUEUE];
static unsigned int queue_head, queue_tail, mapping;

static void *load_device(void)
{
	unsigned char slot;
	bool empty;

	shim_cpu = CPUS - 1;
	for (;;) {
		pthread_mutex_lock(&lock);
		empty = queue_head == queue_tail;
		if (!empty)
			slot = queue[queue_head++ % QUEUE];
		else if (!mapping)
			break;
		pthread_mutex_unlock(&lock);
		if (!empty)
			pool_unmap(slots, slot);
		/* No faster than the tasks: as many as there are are to wait. */
		while (READ_ONCE(pool_throttle->waiting) < max(1L, waiters - 2) && READ_ONCE(mapping) == waiters)
			sched_yield();
	}
	pthread_mutex_unlock(&lock);
	pool_add_counts();
	return NULL;
}

static void *load(void *arg)
{
	long i = (uintptr_t)arg;
	bool first = true;

	if (!i)
		return load_device();
	shim_cpu = i % (CPUS - 1);
	shim_cpu_shared = true;
	for (;;) {
		unsigned char slot = map(slots, !first);

		if (current->slept)
			first = false;
		pthread_mutex_lock(&lock);
		queue[queue_tail++ % QUEUE] = slot;
		if (maps >= target)
			break;
		pthread_mutex_unlock(&lock);
	}
	WRITE_ONCE(mapping, mapping - 1);
	pthread_mutex_unlock(&lock);
	pool_add_counts();
	return NULL;
}

int main(int argc, char **argv)
{
	struct swiotlb_throttle_params params = { 70, 65, SWIOTLB_THROTTLE_MAX_MS, SWIOTLB_THROTTLE_MAX_MS };
	struct swiotlb_throttle *t;
	const char *mode = "order";
	double n, asleep;
	int opt;

	while ((opt = getopt(argc, argv, "w:m:s:r:h:l:")) != -1) {
		switch (opt) {
		case 'w': waiters = atol(optarg); break;
		case 'm': mode = optarg; break;
		case 's': slots = atol(optarg); break;
		case 'h': params.high = atol(optarg); break;
		case 'l': params.low = atol(optarg); break;
		case 'r': seed = atol(optarg); break;
		default: return 2;
		}
	}
	shim_slow = 100;
	pool_watch(20 + waiters / 10, seed);
	pool_strict = true;
	pool_make(NSLABS, CPUS);
	t = pool_throttle;
	if (swiotlb_throttle_set_params(&params))
		abort();
	if (!strcmp(mode, "load")) {
		target = max(2000L, 4 * waiters);
		mapping = waiters;
		pool_threads(waiters + 1, load);
	} else {
		order(!strcmp(mode, "serial"));
	}
	n = maps;
	asleep = max(1UL, pool_counts.admitted_asleep);
	printf("{\"mode\":\"%s\",\"waiting\":%ld,\"slots\":%ld,\"maps\":%.0f,\"throttled\":%lu,\"admitted_asleep\":%lu,\"sleeps\":%lu,"
	       "\"sleeps_for_nothing\":%lu,\"wakeups_per_admission\":%.4f,\"out_of_order\":%lu,\"gave_up\":%lu,\"serialized\":%lu,\"admitted_peak\":%ld,\"high\":%ld,\"low\":%ld,"
	       "\"left\":%ld,"
	       "\"counted\":%lu,\"mean_admissions\":%.2f,\"longest_admissions\":%lu,\"longest_over_mean_admissions\":%.2f,"
	       "\"mean_us\":%.0f,\"longest_us\":%.0f,\"longest_over_mean_us\":%.2f,"
	       "\"locks_per_map\":%.3f,\"sums_per_map\":%.3f,\"folds_per_map\":%.3f}\n",
	       mode, waiters, slots, n, t->throttled, pool_counts.admitted_asleep, pool_counts.sleeps, waits.extra,
	       pool_counts.sleeps / asleep, shim_out_of_order, t->timed_out + t->capped, t->serialized, pool_admitted_peak, t->high, t->low,
	       (long)percpu_counter_sum(&t->used) + t->waiting + t->serial_slots + pool_used,
	       waits.n, (double)waits.sum / max(1UL, waits.n), waits.longest, waits.longest / max(1e-9, (double)waits.sum / max(1UL, waits.n)),
	       waits.ns / 1e3 / max(1UL, waits.n), waits.longest_ns / 1e3, waits.longest_ns / max(1e-9, (double)waits.ns / max(1UL, waits.n)),
	       pool_counts.locks / n, pool_counts.sums / n, shim_folds(&pool_counts) / n);
	pool_drop();
	return 0;
}
