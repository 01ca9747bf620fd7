// SPDX-License-Identifier: GPL-2.0
/*
 * Maps and unmaps at random on many threads, to be run under ThreadSanitizer, too.
 *
 * hammer -m strict: all may block, the thresholds stay; short rounds end with nothing in use.
 * hammer -m slow: the same, and one request keeps the serialized place all the time, so that a waiter whom nobody told is not saved when it is
 * given back: the run is stuck then.
 * hammer -m shares: three devices, one of them slow, each held to its share; with -k the serialized place is kept as above, for a fourth one.
 * hammer -m mixed: others that never wait, lists, requests that must not wait now, searches that fail, devices that stand still, thresholds
 * and timeouts that change; more devices than can be told apart, which come and go. Time runs ten times as fast.
 *
 * Each mapper has a CPU and a device, which unmaps on another CPU. What passes between them does not synchronize: a race in the throttle
 * is not hidden by it.
 */
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "pool.h"

#define NSLABS 512
#define MAPPERS 8
#define RING 16
#define PIECES 4
/* Slots of the largest request. */
#define LARGEST 128
/* A round that takes longer is stuck, in s. */
#define STUCK 20

static bool mixed, shares, keep, last, ended;
static u64 seed = 1;
static long rounds, seconds = 5, maps_each = 8;
static s64 deadline;
static unsigned int mappers = MAPPERS, devices = 1;
static pthread_barrier_t barrier;
/* Device, slots and what the slot remembers of each mapping; 0: free. */
static u32 ring[MAPPERS][RING];
static struct { unsigned long maps, lists, failed, refused, unadmitted, wrong; s64 longest; } total;
static unsigned long changes, drains, aside;
static long held_peak;

static void thread_seed(unsigned int i)
{
	pool_seed = seed * 0x9e3779b97f4a7c15ULL + i * 0xbf58476d1ce4e5b9ULL + 1;
	for (int n = 0; n < 8; n++)
		pool_random(&pool_seed);
}

static s64 now(void)
{
	return ktime_get() * shim_slow / shim_speed;
}

static unsigned int below(unsigned int n)
{
	return (pool_random(&pool_seed) >> 16) % n;
}

#define total_add(what, n) __atomic_add_fetch(&total.what, n, __ATOMIC_RELAXED)

static void put(unsigned int dev, unsigned int slots, unsigned char slot)
{
	for (unsigned int i = below(RING);; i++) {
		u32 *entry = &ring[dev][i % RING];

		if (!READ_ONCE(*entry)) {
			WRITE_ONCE(*entry, current->device << 16 | slots << 8 | slot);
			return;
		}
		if (i % RING == 0)
			sched_yield();
	}
}

static unsigned int size(void)
{
	static const unsigned char sizes[] = { 1, 2, 2, 2, 4, 8, 32, 64, LARGEST };

	return sizes[below(sizeof(sizes))];
}

static void one_list(unsigned int dev, unsigned long attrs)
{
	struct scatterlist sg[PIECES];
	unsigned char slot[PIECES];
	int n = 1 + below(PIECES);

	for (int i = 0; i < n; i++)
		sg[i] = (struct scatterlist){ .length = (1 + below(LARGEST / PIECES)) * IO_TLB_SIZE };
	total_add(lists, 1);
	if (!pool_map_list(sg, n, attrs, slot)) {
		total_add(failed, 1);
		return;
	}
	for (int i = 0; i < n; i++)
		put(dev, sg[i].length / IO_TLB_SIZE, slot[i]);
}

/* As NVMe does: refused, it submits what it has, then waits; sometimes it gives up what it was given. */
static void one_request(unsigned int dev)
{
	unsigned int slots = size();
	unsigned long attrs = 0;
	unsigned char slot;

	if (swiotlb_throttle_admit(&pool_dev, slots, &attrs)) {
		total_add(refused, 1);
		attrs = DMA_ATTR_MAY_BLOCK;
		if (swiotlb_throttle_admit(&pool_dev, slots, &attrs)) {
			total_add(wrong, 1);
			return;
		}
	}
	if (!below(8)) {
		swiotlb_throttle_unadmit(&pool_dev, slots, attrs);
		total_add(unadmitted, 1);
	} else if (pool_map(slots, attrs, &slot)) {
		put(dev, slots, slot);
	} else {
		swiotlb_throttle_unadmit(&pool_dev, slots, attrs);
		total_add(failed, 1);
	}
}

static void one(unsigned int dev, unsigned long attrs)
{
	s64 start = now(), took, longest = READ_ONCE(total.longest);
	unsigned int slots;
	unsigned char slot;

	total_add(maps, 1);
	current->device = !mixed || below(4) ? dev % devices : below(SHIM_DEVICES);
	switch (below(8)) {
	case 0:
		one_list(dev, attrs);
		break;
	case 1:
		if (attrs) {
			one_request(dev);
			break;
		}
		/* fallthrough */
	default:
		slots = size();
		if (pool_map(slots, attrs, &slot))
			put(dev, slots, slot);
		else
			total_add(failed, 1);
	}
	took = now() - start;
	while (took > longest && !__atomic_compare_exchange_n(&total.longest, &longest, took, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static void check(bool it, const char *what)
{
	if (it)
		return;
	fprintf(stderr, "hammer: seed %lu: %s\n", seed, what);
	total_add(wrong, 1);
}

/*
 * All devices are active, and stay so: none holds more than its share but as a single request, and as the serialized one.
 */
static void check_shares(void)
{
	struct swiotlb_throttle *t = pool_throttle;
	long held, most = max(t->high / (devices + keep), (long)LARGEST) + (keep ? 0 : LARGEST);

	spin_lock_irq(&t->wait.lock);
	check(t->active == devices + keep, "a device has no claim to a share");
	for (unsigned int i = 0; i < devices; i++) {
		held = pool_held(i);
		check(held >= 0 && held <= most, "a device holds more than its share");
		held_peak = max(held_peak, held);
	}
	aside += !list_empty(&t->set_aside);
	spin_unlock_irq(&t->wait.lock);
}

/* Nobody does anything. */
static void at_rest(void)
{
	struct swiotlb_throttle *t = pool_throttle;
	struct throttle_share *share;
	long held = 0;

	/* One slot is, if the serialized place is kept. */
	check(percpu_counter_sum(&t->used) == keep, "slots are charged that nobody has");
	check(READ_ONCE(pool_used) == keep, "slots are in use");
	check(!t->waiting && !t->nr_retry && list_empty(&t->wait.head) && list_empty(&t->retry), "somebody waits");
	check(list_empty(&t->set_aside), "a device is set aside");
	for (share = t->shares; share < t->shares + THROTTLE_SHARES; share++) {
		held += atomic_long_read(&share->held);
		check(atomic_long_read(&share->held) >= 0, "a device has given back more than it held");
		check(!share->nr_waiters && list_empty(&share->waiters), "a request of a device waits");
	}
	check(held == keep, "slots are counted that no device holds");
	check(t->serial_slots == keep, "the serialized place is taken");
	check(!t->drain, "others are held back for nobody");
	if (mixed)
		return;
	check(READ_ONCE(pool_admitted_peak) <= t->high, "more than high was admitted");
	check(!t->timed_out && !t->capped, "a wait ran out");
	check(!READ_ONCE(total.failed), "a map failed");
	check(!READ_ONCE(pool_admitted) && READ_ONCE(pool_serial) == keep, "the harness lost count");
}

static void take_serialized_place(void)
{
	long high = pool_throttle->high;
	unsigned char slot;

	shim_cpu = 2 * MAPPERS;
	current->device = devices;
	for (long i = 0; i < high; i++)
		if (!pool_map(1, 0, &slot))
			abort();
	if (!pool_map(1, DMA_ATTR_MAY_BLOCK, &slot) || slot != (SWIOTLB_SLOT_SERIALIZED | SWIOTLB_SLOT_COUNTED))
		abort();
	for (long i = 0; i < high; i++)
		pool_unmap(1, 0);
	pool_admitted_peak = 0;
}

/* Each device asks once while there is nothing below the threshold. */
static void claim_shares(void)
{
	long high = pool_throttle->high;
	unsigned char slot;

	shim_cpu = 2 * MAPPERS;
	for (long i = 0; i < high; i++)
		if (!pool_map(1, 0, &slot))
			abort();
	for (current->device = 0; current->device < devices; current->device++) {
		unsigned long attrs = 0;

		if (!swiotlb_throttle_admit(&pool_dev, 1, &attrs))
			swiotlb_throttle_unadmit(&pool_dev, 1, attrs);
	}
	for (long i = 0; i < high; i++)
		pool_unmap(1, 0);
	pool_admitted_peak = 0;
}

static void mapper(unsigned int i)
{
	/* In the mixed load two never wait. */
	unsigned long attrs = mixed && i < 2 ? 0 : DMA_ATTR_MAY_BLOCK;

	while (!last) {
		for (long n = 0; n < maps_each; n++) {
			one(i, attrs);
			if (shares)
				check_shares();
			if (!below(4))
				sched_yield();
		}
		for (int e = 0; e < RING; e++)
			while (smp_load_acquire(&ring[i][e]))
				sched_yield();
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
			at_rest();
			rounds++;
			last = now() > deadline;
			alarm(STUCK);
		}
		pthread_barrier_wait(&barrier);
	}
	if (!i)
		WRITE_ONCE(ended, true);
}

static void device(unsigned int dev)
{
	while (!READ_ONCE(ended)) {
		bool found = false;

		for (unsigned int i = 0, from = below(RING); i < RING; i++) {
			u32 *entry = &ring[dev][(from + i) % RING], v = READ_ONCE(*entry);

			if (!v)
				continue;
			found = true;
			current->device = v >> 16;
			pool_unmap(v >> 8 & 0xff, v & 0xff);
			smp_store_release(entry, 0);
			if (shares && dev % devices == 0)
				usleep(below(1000));
			if (!below(4))
				break;
		}
		/* It stands still: for longer than the timeout of a stall, or long enough to hold up a search. */
		if (mixed && !below(2000))
			usleep(1000 * (1 + below(30)));
		if (!found || !below(4))
			sched_yield();
	}
}

/* As the sysctls, and a reader of the statistics. */
static void changer(void)
{
	struct swiotlb_throttle *t = pool_throttle;

	while (!READ_ONCE(ended)) {
		struct swiotlb_throttle_params p = { .high = below(5) ? 30 + below(60) : 100, .stall_ms = below(2) ? 100 : 400, .cap_ms = 2000 };

		p.low = below(p.high + 1);
		if (!below(4))
			p.stall_ms = 1 + below(100);
		if (!below(4))
			p.cap_ms = p.stall_ms + below(500);
		if (swiotlb_throttle_set_params(&p))
			total_add(wrong, 1);
		p.low = p.high + 1;
		if (swiotlb_throttle_set_params(&p) != -EINVAL)
			total_add(wrong, 1);
		changes++;
		/* For as long as this lasts most searches fail, so that others are held back in the end. */
		WRITE_ONCE(pool_scattered, below(6) ? 48 : 256);
		spin_lock_irq(&t->wait.lock);
		drains += !!t->drain;
		spin_unlock_irq(&t->wait.lock);
		usleep(below(20000) + (READ_ONCE(pool_scattered) == 256 ? 20000 : 0));
		if (percpu_counter_sum(&t->used) < -NSLABS || READ_ONCE(t->waiting) > mappers || READ_ONCE(t->longest_wait) < 0)
			total_add(wrong, 1);
	}
}

static void *thread(void *arg)
{
	unsigned int i = (uintptr_t)arg;

	thread_seed(i);
	shim_cpu = i;
	if (i < mappers)
		mapper(i);
	else if (i < 2 * mappers)
		device(i - mappers);
	else
		changer();
	pool_add_counts();
	return NULL;
}

int main(int argc, char **argv)
{
	struct swiotlb_throttle_params params = { 70, 65, SWIOTLB_THROTTLE_MAX_MS, SWIOTLB_THROTTLE_MAX_MS };
	const char *mode = "strict";
	struct swiotlb_throttle *t;
	int opt;

	while ((opt = getopt(argc, argv, "km:r:s:t:")) != -1) {
		switch (opt) {
		case 'k': keep = true; break;
		case 'm': mode = optarg; break;
		case 'r': seed = strtoul(optarg, NULL, 10); break;
		case 's': seconds = atol(optarg); break;
		case 't': mappers = min((unsigned int)atol(optarg), (unsigned int)MAPPERS); break;
		default: return 2;
		}
	}
	mixed = !strcmp(mode, "mixed");
	shares = !strcmp(mode, "shares");
	keep |= !strcmp(mode, "slow");
	devices = mixed || shares ? 3 : 1;
	pool_watch(STUCK, seed);
	if (mixed)
		shim_speed = 10;
	else
		shim_slow = 100;
	maps_each = mixed ? 200 : 8;
	pool_strict = !mixed;
	pool_scattered = mixed ? 48 : 0;
	pool_make(NSLABS, 2 * MAPPERS + 1);
	t = pool_throttle;
	if (swiotlb_throttle_set_params(&params))
		abort();
	if (shares)
		claim_shares();
	if (keep)
		take_serialized_place();
	deadline = now() + seconds * 1000000000;
	pthread_barrier_init(&barrier, NULL, mappers);
	pool_threads(2 * mappers + mixed, thread);
	printf("{\"mode\":\"%s\",\"seed\":%lu,\"rounds\":%ld,\"maps\":%lu,\"lists\":%lu,\"failed\":%lu,\"refused\":%lu,\"unadmitted\":%lu,"
	       "\"changes\":%lu,\"throttled\":%lu,\"serialized\":%lu,\"timed_out\":%lu,\"capped\":%lu,\"retried\":%lu,\"drains_seen\":%lu,\"admitted_peak\":%ld,"
	       "\"high\":%ld,\"longest_ms\":%.0f,\"held_peak\":%ld,\"set_aside_seen\":%lu,\"out_of_order\":%lu,\"sleeps\":%lu,\"admitted_asleep\":%lu,\"wrong\":%lu}\n",
	       mode, seed, rounds, total.maps, total.lists, total.failed, total.refused, total.unadmitted, changes, t->throttled, t->serialized,
	       t->timed_out, t->capped, t->retried, drains, pool_admitted_peak, t->high, total.longest / 1e6, held_peak, aside,
	       shim_out_of_order, pool_counts.sleeps, pool_counts.admitted_asleep, total.wrong + shim_out_of_order);
	return total.wrong + shim_out_of_order ? 1 : 0;
}
