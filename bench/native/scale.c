// SPDX-License-Identifier: GPL-2.0
/*
 * What a map and its unmap cost, in steady state: folds of the counter, sums over all CPUs, acquisitions of the queue's lock.
 *
 * Each thread has a virtual CPU of its own; with "other" a second one, on which it unmaps what it mapped on the first: the counter's parts see
 * the same as if two threads handed mappings over. The lists of values are combined; a line of JSON is printed for each combination that
 * stays below the threshold, so that nobody has to wait.
 */
#include <getopt.h>
#include <time.h>

#include "pool.h"

#define MAX_VALUES 32
#define MAX_DEPTH 64
struct values { int n; long v[MAX_VALUES]; };
#define EACH(x, list) for (int x##_i = 0; x##_i < (list).n && ((x) = (list).v[x##_i], 1); x##_i++)

/* Where the counter's parts stand before: all of @held in the central count; or the parts hide as much as they can, either way. */
enum parts { PARTS_EMPTY, PARTS_UNDER, PARTS_OVER };
static const char *const parts_name[] = { "empty", "under", "over" };

static long mib, cpus, threads, slots, level, other, may_block, depth, fraction;
static long pairs = 16000;
static pthread_barrier_t barrier;
static s64 cpu_ns;
static long freed;

static void parse(struct values *list, char *arg)
{
	list->n = 0;
	for (char *s = strtok(arg, ","); s && list->n < MAX_VALUES; s = strtok(NULL, ","))
		list->v[list->n++] = atol(s);
}

/* A slack of 1/fraction of the pool instead of the core's own. */
static void set_fraction(void)
{
	if (!fraction)
		return;
	pool_throttle->batch = max(1L, (long)pool_mem.nslabs / (fraction * cpus));
	pool_throttle->slack = (long)pool_throttle->batch * cpus;
	pool_throttle->far = THROTTLE_CLOSED;
}

static void charge(long n, unsigned int cpu)
{
	shim_cpu = cpu;
	for (; n > 0; n -= 128)
		swiotlb_throttle_begin(&pool_dev, min(n, 128L) * IO_TLB_SIZE, 0);
}

static void uncharge(long n, unsigned int cpu)
{
	shim_cpu = cpu;
	if (n)
		swiotlb_throttle_release(&pool_dev, n, 0);
}

/* Others hold @held slots. */
static void hold(long held, enum parts parts)
{
	long part = pool_throttle->batch - 1, hidden = part * cpus;

	if (parts == PARTS_UNDER) {
		hidden = min(hidden, held);
		charge(held - hidden, 0);
		/* CPU 0's part has a rest of that. */
		hidden = held - percpu_counter_read(&pool_throttle->used);
		for (unsigned int c = 1; c < cpus && hidden > 0; c++, hidden -= part)
			charge(min(hidden, part), c);
		charge(max(hidden, 0L), 0);
	} else if (parts == PARTS_OVER) {
		charge(held + hidden, 0);
		for (unsigned int c = 0; c < cpus; c++)
			uncharge(part, c);
	} else {
		charge(held, 0);
	}
	shim_cpu = 0;
}

struct mapping { unsigned char slot; };

static void run_pairs(long maps, unsigned int map_cpu, struct mapping *queue, unsigned int *head, unsigned int *tail)
{
	unsigned long attrs = may_block ? DMA_ATTR_MAY_BLOCK : 0;

	while (maps) {
		unsigned int in_flight = *tail - *head;
		bool map = !in_flight || (in_flight < depth && pool_random(&pool_seed) & 1);

		if (map) {
			shim_cpu = map_cpu;
			if (!pool_map(slots, attrs, &queue[(*tail)++ % MAX_DEPTH].slot))
				abort();
			maps--;
		} else {
			shim_cpu = other ? threads + map_cpu : map_cpu;
			pool_unmap(slots, queue[(*head)++ % MAX_DEPTH].slot);
		}
	}
}

static void *worker(void *arg)
{
	unsigned int head = 0, tail = 0, cpu = (uintptr_t)arg;
	struct mapping queue[MAX_DEPTH];
	struct timespec from, to;
	long maps = max(200L, pairs / threads);

	pool_seed += cpu * 7919;
	run_pairs(maps / 4, cpu, queue, &head, &tail);
	if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
		freed = atomic_long_read(&pool_throttle->freed);
	shim_counts = (struct shim_counts){};
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
	run_pairs(maps, cpu, queue, &head, &tail);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
	__atomic_add_fetch(&cpu_ns, (to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec, __ATOMIC_RELAXED);
	pool_add_counts();
	return NULL;
}

static void measure(void)
{
	long nslabs = mib << 9, held, peak;
	double n = max(200L, pairs / threads) * threads;

	if (cpus < threads * (other ? 2 : 1))
		return;
	pool_make(nslabs, cpus);
	set_fraction();
	held = nslabs * level / 100;
	peak = held + threads * depth * slots;
	/* A request more: what is in flight may be in the other part. */
	if (peak + slots > pool_throttle->high)
		goto out;
	hold(held, PARTS_EMPTY);
	pool_counts = (struct shim_counts){};
	cpu_ns = 0;
	pthread_barrier_init(&barrier, NULL, threads);
	pool_threads(threads, worker);
	pthread_barrier_destroy(&barrier);
	if (pool_throttle->throttled)
		abort();
	printf("{\"mib\":%ld,\"possible\":%ld,\"cpus\":%ld,\"slots\":%ld,\"level\":%ld,\"peak\":%.2f,\"unmap\":\"%s\",\"may_block\":%s,"
	       "\"depth\":%ld,\"fraction\":%ld,\"batch\":%d,\"slack\":%.1f,\"pairs\":%.0f,\"adds\":%.4f,\"folds\":%.4f,\"sums\":%.4f,\"locks\":%.4f,\"told\":%.4f,"
	       "\"ns\":%.0f}\n", mib, cpus, threads, slots, level, 100. * peak / nslabs, other ? "other" : "same",
	       may_block ? "true" : "false", depth, fraction ?: 8, pool_throttle->batch,
	       100. * pool_throttle->slack / nslabs, n,
	       pool_counts.adds / n, shim_folds(&pool_counts) / n, pool_counts.sums / n, pool_counts.locks / n,
	       (pool_throttle->freed.counter - freed) / (n * slots), cpu_ns / n);
out:
	pool_drop();
}

static void print_level(long permille)
{
	if (permille < 0)
		printf("null");
	else
		printf("%.1f", permille / 10.);
}

/* The levels from which the first and from which every map takes the lock, in percent of the pool, null for none; one thread. */
static void onset(enum parts parts)
{
	long nslabs = mib << 9, first = -1, all = -1;

	for (long permille = 0; permille < 700; permille += 5) {
		unsigned long locks = 0;
		long held = nslabs * permille / 1000;
		unsigned char slot;

		pool_make(nslabs, cpus);
		set_fraction();
		if (held + slots > pool_throttle->high) {
			pool_drop();
			break;
		}
		hold(held, parts);
		shim_counts = (struct shim_counts){};
		for (int i = 0; i < 32; i++) {
			if (!pool_map(slots, DMA_ATTR_MAY_BLOCK, &slot))
				abort();
			locks += shim_counts.locks;
			shim_counts.locks = 0;
			pool_unmap(slots, slot);
		}
		pool_drop();
		if (locks && first < 0)
			first = permille;
		if (locks >= 32 && all < 0)
			all = permille;
		else if (locks < 32)
			all = -1;
	}
	printf("{\"mib\":%ld,\"possible\":%ld,\"slots\":%ld,\"fraction\":%ld,\"parts\":\"%s\",\"first\":", mib, cpus, slots,
	       fraction ?: 8, parts_name[parts]);
	print_level(first);
	printf(",\"all\":");
	print_level(all);
	printf("}\n");
}

int main(int argc, char **argv)
{
	struct values p = { 1, { 64 } }, c = { 1, { 16 } }, t = { 1, { 1 } }, s = { 1, { 2 } }, l = { 1, { 0 } }, o = { 1, { 0 } };
	struct values b = { 1, { 1 } }, d = { 1, { 8 } }, f = { 1, { 0 } };
	bool onsets = false;
	int opt;

	while ((opt = getopt(argc, argv, "p:c:t:s:l:o:b:d:f:n:O")) != -1) {
		switch (opt) {
		case 'p': parse(&p, optarg); break;	/* pool, MiB */
		case 'c': parse(&c, optarg); break;	/* possible CPUs */
		case 't': parse(&t, optarg); break;	/* CPUs that map */
		case 's': parse(&s, optarg); break;	/* slots of a request */
		case 'l': parse(&l, optarg); break;	/* percent of the pool held by others */
		case 'o': parse(&o, optarg); break;	/* 1: unmap on another CPU */
		case 'b': parse(&b, optarg); break;	/* 1: may block */
		case 'd': parse(&d, optarg); break;	/* mappings in flight, at most */
		case 'f': parse(&f, optarg); break;	/* slack is 1/f of the pool, 0: the core's */
		case 'n': pairs = atol(optarg); break;
		case 'O': onsets = true; break;
		default: return 2;
		}
	}
	EACH(mib, p) EACH(cpus, c) EACH(fraction, f) EACH(slots, s) {
		if (cpus > SHIM_MAX_CPUS)
			return 2;
		if (onsets) {
			for (enum parts parts = PARTS_EMPTY; parts <= PARTS_OVER; parts++)
				onset(parts);
			continue;
		}
		EACH(other, o) EACH(may_block, b) EACH(depth, d) EACH(level, l) EACH(threads, t) {
			if (depth > MAX_DEPTH)
				return 2;
			measure();
		}
	}
	return 0;
}
