// SPDX-License-Identifier: GPL-2.0
/*
 * swiotlb throttling: map calls that may sleep wait when slots run short.
 *
 * The idea.  A pool has two thresholds, high and low.  A map request that may
 * sleep is admitted only if the slots in use stay at or below high; otherwise
 * it joins a queue.  As slots are freed, waiters are admitted from the head of
 * the queue: the one who frees takes the slots on behalf of the waiter, and
 * stops at the first who does not fit.  Requests that cannot sleep are
 * accounted for, but never held up; what lies above high is theirs.
 *
 * One request at a time is let through above high, so that those who can wait
 * make progress even when others keep all the rest for ever.  It is the
 * serialized request; its place is free again when its last slot is unmapped.
 *
 * Counting.  Slots in use are counted in a percpu_counter, so that far from
 * the threshold an admission is an add to a per-CPU variable.  The per-CPU
 * parts can hide at most @slack slots.  While the central count plus that much
 * is within the threshold, the exact sum is, too, and nobody needs to know it.
 * Closer to it the request takes the lock and joins the queue, and the queue is
 * looked at, even if that request is the only one in it: there is one place
 * where admission is decided by the sum, swiotlb_throttle_dispatch().  If nobody
 * has to wait then, it leaves a part of what is free up to the threshold as @room,
 * for those who come next: near the threshold admission is to take from that.
 *
 * Waking.  While nobody waits, an unmap only reads @waiting.  While somebody
 * does, it adds to @freed, and the unmap that lifts @freed to @goal looks at
 * the queue.  The dispatcher sets the goal to what must be freed before usage
 * can be down at low (or the head of the queue fits, if that takes more), so
 * the sum over all CPUs is made once for many unmaps.  A goal reached although
 * others took slots meanwhile is set anew.
 *
 * Shares.  First come, first served lets a slow device take, bit by bit, all that
 * a fast one gives back.  So while several devices ask for slots near the
 * threshold, each may hold an equal part of what is below it, as the users of a
 * shared tag set do.  Who asks for more is set aside and passed by the others,
 * until its own device has given back enough.  Only slots that were given out
 * while somebody waited are counted: before that there was enough for all, and a
 * device that asks for too much always has somebody who waits.
 *
 * Room.  An admitted map may find no room, because it needs contiguous slots and
 * the free ones are scattered.  It then waits for unmaps and searches again.  If
 * others went on to take what is freed, it could do so for ever; so after a
 * while it counts as the first who does not fit, and only the serialized request
 * is admitted until it has found room.  That is limited in time, since what
 * cannot wait may keep the slots scattered whatever we do.
 *
 * A wait is bounded.  It ends when no slot at all has been freed for the stall
 * timeout, since waiting is hopeless then, and in any case after the cap.  The
 * request then goes ahead as if there was no throttle.
 */
#define pr_fmt(fmt) "software IO TLB: " fmt

#include <linux/cc_platform.h>
#include <linux/cpumask.h>
#include <linux/dma-direct.h>
#include <linux/dma-map-ops.h>
#include <linux/export.h>
#include <linux/hash.h>
#include <linux/init.h>
#include <linux/iommu-dma.h>
#include <linux/jiffies.h>
#include <linux/log2.h>
#include <linux/memremap.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <kunit/visibility.h>
#include <trace/events/swiotlb.h>

#include "swiotlb_throttle.h"

DEFINE_STATIC_KEY_FALSE(swiotlb_throttle_key);

struct swiotlb_throttle_params swiotlb_throttle_params = {
	.high		= 70,
	.low		= 65,
	.stall_ms	= 1000,
	.cap_ms		= 5000,
};
EXPORT_SYMBOL_IF_KUNIT(swiotlb_throttle_params);

/* Protects the parameters and the list of all throttles. */
static DEFINE_MUTEX(swiotlb_throttle_mutex);
static LIST_HEAD(swiotlb_throttles);

/**
 * struct throttle_waiter - a request in the queue
 * @wait:	Its func tells whoever waits: with a key, that the request has
 *		been admitted and has left the queue; without one, that it
 *		should look at the time again.  The slots are charged by the
 *		caller, so that a func need not know how, and the one who waits
 *		need not be a task.
 * @share:	Of its device; %NULL if it is not held to one.
 * @slots:	What it needs.
 * @attrs:	What its maps are to carry, once it is admitted.
 * @admitted:	The waker charged @slots.
 * @seq:	Its place in the order of all that joined.
 * @since:	When it joined the queue.
 */
struct throttle_waiter {
	struct wait_queue_entry wait;
	struct throttle_share *share;
	unsigned int slots;
	unsigned long attrs;
	bool admitted;
	unsigned long seq;
	ktime_t since;
};

static struct throttle_waiter *throttle_first(struct list_head *queue)
{
	return list_first_entry_or_null(queue, struct throttle_waiter,
					wait.entry);
}

static int throttle_wake_task(struct wait_queue_entry *wait, unsigned int mode,
			      int wake_flags, void *key)
{
	struct throttle_waiter *w =
		container_of(wait, struct throttle_waiter, wait);

	/* The task takes the lock that we hold before it drops @w. */
	if (key)
		WRITE_ONCE(w->admitted, true);
	return default_wake_function(wait, mode, wake_flags, key);
}

static void throttle_note_wait(struct swiotlb_throttle *t, ktime_t since)
{
	s64 waited = ktime_to_ns(ktime_sub(ktime_get(), since));

	lockdep_assert_held(&t->wait.lock);

	WRITE_ONCE(t->longest_wait, max(t->longest_wait, waited));
}

#define THROTTLE_NO_GOAL	LONG_MIN

/* For how long a device that asks for nothing keeps its claim to a share. */
#define THROTTLE_SHARE_IDLE	HZ

/*
 * An entry is given to another device only while its own holds nothing, so who
 * gives back what was counted finds it, without the lock.
 */
static struct throttle_share *throttle_find_share(struct swiotlb_throttle *t,
						  struct device *dev)
{
	unsigned int i, n = hash_ptr(dev, ilog2(THROTTLE_SHARES));
	struct throttle_share *share;

	for (i = 0; i < THROTTLE_SHARES; i++) {
		share = &t->shares[(n + i) % THROTTLE_SHARES];
		if (READ_ONCE(share->dev) == dev)
			return share;
	}
	return NULL;
}

/*
 * @dev asks for slots near the threshold.  If so many devices do that there is
 * no entry left, it is not held to a share.
 */
static struct throttle_share *throttle_claim_share(struct swiotlb_throttle *t,
						   struct device *dev)
{
	unsigned int i, n = hash_ptr(dev, ilog2(THROTTLE_SHARES));
	struct throttle_share *share = throttle_find_share(t, dev);

	lockdep_assert_held(&t->wait.lock);

	for (i = 0; !share && i < THROTTLE_SHARES; i++) {
		share = &t->shares[(n + i) % THROTTLE_SHARES];
		if (share->active || atomic_long_read(&share->held))
			share = NULL;
		else
			WRITE_ONCE(share->dev, dev);
	}
	if (!share)
		return NULL;

	share->asked = jiffies;
	if (!share->active) {
		share->active = true;
		t->active++;
	}
	return share;
}

/* Devices that have not asked for a while leave their shares to the others. */
static void throttle_expire_shares(struct swiotlb_throttle *t)
{
	struct throttle_share *share;

	lockdep_assert_held(&t->wait.lock);

	if (time_before(jiffies, t->expired + THROTTLE_SHARE_IDLE))
		return;
	t->expired = jiffies;
	for (share = t->shares; share < t->shares + THROTTLE_SHARES; share++) {
		if (!share->active || share->nr_waiters ||
		    time_before(jiffies, share->asked + THROTTLE_SHARE_IDLE))
			continue;
		share->active = false;
		t->active--;
	}
}

/* Would @slots be too much?  Not for one who holds nothing, whatever its size. */
static bool throttle_over_share(struct swiotlb_throttle *t,
				struct throttle_share *share,
				unsigned int slots)
{
	long held;

	if (!share || t->active < 2)
		return false;
	held = atomic_long_read(&share->held);
	return held > 0 && held + slots > t->high / t->active;
}

/*
 * When those set aside are looked at: as for the pool, when what the device holds
 * is down at the low threshold, or its first request fits, if that takes more.
 * Who is within its share waits for the pool.
 */
static void throttle_set_share_goals(struct swiotlb_throttle *t)
{
	struct throttle_share *share;
	long slots, goal;

	list_for_each_entry(share, &t->set_aside, node) {
		slots = throttle_first(&share->waiters)->slots;
		goal = min(t->low / t->active, t->high / t->active - slots);
		if (throttle_over_share(t, share, slots))
			WRITE_ONCE(share->goal, max(goal, 0L));
		else
			WRITE_ONCE(share->goal, THROTTLE_NO_GOAL);
	}
}

static void throttle_join(struct swiotlb_throttle *t, struct throttle_waiter *w,
			  struct list_head *queue)
{
	lockdep_assert_held(&t->wait.lock);

	w->seq = t->seq++;
	list_add_tail(&w->wait.entry, queue);
	if (w->share)
		w->share->nr_waiters++;
}

static void throttle_leave(struct swiotlb_throttle *t, struct throttle_waiter *w)
{
	lockdep_assert_held(&t->wait.lock);

	list_del_init(&w->wait.entry);
	if (!w->share)
		return;
	w->share->nr_waiters--;
	if (list_empty(&w->share->waiters)) {
		list_del_init(&w->share->node);
		WRITE_ONCE(w->share->goal, THROTTLE_NO_GOAL);
	}
}

/*
 * The one who goes next, if it fits: whoever came first among the head of the
 * queue and those set aside whose device has given back enough.
 */
static struct throttle_waiter *throttle_next(struct swiotlb_throttle *t)
{
	struct throttle_waiter *first, *w;
	struct throttle_share *share;

	lockdep_assert_held(&t->wait.lock);

	while ((w = throttle_first(&t->wait.head))) {
		share = w->share;
		if (!share || (list_empty(&share->waiters) &&
			       !throttle_over_share(t, share, w->slots)))
			break;
		list_move_tail(&w->wait.entry, &share->waiters);
		if (list_empty(&share->node))
			list_add_tail(&share->node, &t->set_aside);
	}
	list_for_each_entry(share, &t->set_aside, node) {
		first = throttle_first(&share->waiters);
		if ((!w || (long)(first->seq - w->seq) < 0) &&
		    !throttle_over_share(t, share, first->slots))
			w = first;
	}
	return w;
}

/* Nobody is within its share: the one who has been set aside for longest. */
static struct throttle_waiter *throttle_oldest_aside(struct swiotlb_throttle *t)
{
	struct throttle_waiter *first, *w = NULL;
	struct throttle_share *share;

	list_for_each_entry(share, &t->set_aside, node) {
		first = throttle_first(&share->waiters);
		if (!w || (long)(first->seq - w->seq) < 0)
			w = first;
	}
	return w;
}

/* @w takes its slots, whether it was admitted or goes ahead unasked. */
static void throttle_charge(struct swiotlb_throttle *t,
			    struct throttle_waiter *w)
{
	throttle_add(t, w->slots);
	if (w->share) {
		atomic_long_add(w->slots, &w->share->held);
		w->attrs |= __DMA_ATTR_COUNTED;
	}
}

/*
 * What never waits takes from the room, too, unless it came between the sum and
 * the room that was left by it. The central count bounds how much that is.
 */
static bool throttle_has_room(struct swiotlb_throttle *t, unsigned int slots)
{
	return atomic_long_read(&t->room) >= (long)slots &&
		percpu_counter_read_positive(&t->used) + slots <=
		READ_ONCE(t->high);
}

/* Nobody waits, and @used slots are in use: how others may go on. */
static void throttle_leave_room(struct swiotlb_throttle *t, long used)
{
	lockdep_assert_held(&t->wait.lock);

	if (percpu_counter_read_positive(&t->used) + t->max_room >
	    t->high - t->slack) {
		atomic_long_set(&t->room,
				clamp(t->high - used, 0L, t->max_room));
		return;
	}
	/*
	 * Pairs with the acquire in throttle_charge_fast(): who sees it also
	 * sees what was charged for those who waited.
	 */
	smp_store_release(&t->far, t->high - t->slack);
}

/* From now on every admission is to be decided about. */
static void throttle_close(struct swiotlb_throttle *t)
{
	WRITE_ONCE(t->far, THROTTLE_CLOSED);
	atomic_long_set(&t->room, 0);
}

/* Somebody is about to wait; the first one starts the clock of a stall. */
static void throttle_add_waiting(struct swiotlb_throttle *t)
{
	lockdep_assert_held(&t->wait.lock);

	if (!t->waiting) {
		WRITE_ONCE(t->last_freed, jiffies);
		throttle_close(t);
	}
	WRITE_ONCE(t->waiting, t->waiting + 1);
}

/* One who waits less; what it takes has been charged. */
static void throttle_sub_waiting(struct swiotlb_throttle *t)
{
	lockdep_assert_held(&t->wait.lock);

	WRITE_ONCE(t->waiting, t->waiting - 1);
}

static void throttle_admit(struct swiotlb_throttle *t,
			   struct throttle_waiter *w, bool serialized)
{
	lockdep_assert_held(&t->wait.lock);

	if (serialized) {
		t->serial_slots = w->slots;
		t->serialized++;
		w->attrs |= __DMA_ATTR_SERIALIZED;
	}
	throttle_charge(t, w);
	throttle_leave(t, w);
	throttle_note_wait(t, w->since);
	throttle_sub_waiting(t);
	w->wait.func(&w->wait, TASK_NORMAL, 0, w);
}

/*
 * Admit from the head of the queue whoever fits, and say when to look again.
 *
 * No MAY_BLOCK request is admitted elsewhere meanwhile: @far is closed and no room
 * is left, and who sees that only after its charge takes it back.  So one sum
 * serves all, and none is needed while the most that the central count allows for
 * fits.  It is no snapshot: a map that cannot wait, and whose unmap on another CPU
 * is seen when it is not, makes it too small by the slots of that map.  Those that
 * can wait are exact among themselves.
 */
static void swiotlb_throttle_dispatch(struct swiotlb_throttle *t)
{
	struct throttle_waiter *w;
	long high, low, used, freed;
	bool exact;

	lockdep_assert_held(&t->wait.lock);

	if (!t->waiting) {
		WRITE_ONCE(t->goal, LONG_MAX);
		return;
	}

	throttle_expire_shares(t);
again:
	/* A slot freed from here on counts towards the goal. */
	freed = atomic_long_read(&t->freed);
	/*
	 * Pairs with the barriers in throttle_charge_fast() and
	 * throttle_sub(): whoever finds @far open, or nobody waiting, is seen by
	 * the sum, and in what the devices hold.  It also keeps both behind the
	 * read of @freed.
	 */
	smp_mb();
	used = percpu_counter_read_positive(&t->used) + t->slack;
	exact = false;
	high = t->high;
	low = t->low;

	while ((w = throttle_next(t))) {
		/* What has been charged above is part of the sum. */
		if (used + (long)w->slots > high && !exact) {
			used = percpu_counter_sum(&t->used);
			exact = true;
		}
		if (used + (long)w->slots <= high && !t->drain)
			throttle_admit(t, w, false);
		else if (!t->serial_slots)
			throttle_admit(t, w, true);
		else
			break;
		used += w->slots;
	}
	/* What is set aside gets on as well, if nobody else needs the place. */
	if (!w && !t->serial_slots) {
		w = throttle_oldest_aside(t);
		if (w) {
			throttle_admit(t, w, true);
			goto again;
		}
	}

	/*
	 * What is larger than the threshold waits for the serialized place. When
	 * the pool has been drained, this is called again.
	 */
	if (w && w->slots <= high && !t->drain)
		WRITE_ONCE(t->goal,
			   freed + used - min(low, high - (long)w->slots));
	else
		WRITE_ONCE(t->goal, LONG_MAX);
	throttle_set_share_goals(t);
	if (!t->waiting)
		throttle_leave_room(t, used);
	if (!w && list_empty(&t->set_aside))
		return;

	/*
	 * Pairs with atomic_long_add_return() in throttle_note_freed() and
	 * atomic_long_sub_return() in throttle_uncount(): an unmap that compared
	 * with the old goals has been counted by now.
	 */
	smp_mb();
	if (atomic_long_read(&t->freed) >= t->goal || throttle_next(t) != w)
		goto again;
}

/*
 * @slots have been given back while somebody waits.  Who reaches neither the
 * goal nor that of its device (@look) leaves the queue alone.
 */
static void throttle_note_freed(struct swiotlb_throttle *t, unsigned int slots,
				bool look)
{
	unsigned long flags;
	long freed;

	/* A full barrier: see the end of swiotlb_throttle_dispatch(). */
	freed = atomic_long_add_return(slots, &t->freed);
	if (!look && freed < READ_ONCE(t->goal))
		return;

	spin_lock_irqsave(&t->wait.lock, flags);
	if (look || atomic_long_read(&t->freed) >= t->goal)
		swiotlb_throttle_dispatch(t);
	spin_unlock_irqrestore(&t->wait.lock, flags);
}

/* Undo a charge that does not fit, with preemption disabled since it was made. */
static noinline void throttle_take_back(struct swiotlb_throttle *t,
					unsigned int slots)
{
	bool waiting = throttle_sub(t, slots);

	preempt_enable();
	/* A sum may have seen it, and a waiter been kept waiting for it. */
	if (waiting)
		throttle_note_freed(t, slots, false);
}

/* Near the threshold all are confined to the room that was left for them. */
static noinline bool throttle_charge_room(struct swiotlb_throttle *t,
					  unsigned int slots)
{
	if (READ_ONCE(t->waiting) || !throttle_has_room(t, slots))
		return false;

	preempt_disable();
	throttle_add(t, slots);
	/*
	 * Fully ordered: whoever calls the room off sees in the sum what was
	 * taken from it.
	 */
	if (atomic_long_sub_return(slots, &t->room) < 0) {
		throttle_take_back(t, slots);
		return false;
	}
	preempt_enable();
	return true;
}

/*
 * The admission of a request that nobody has to decide about.  Far from the
 * threshold, whoever adds first and then finds the central count within @far knows
 * that the sum is within the threshold, whatever others add at the same time: they
 * add before they look, too.
 */
static __always_inline bool throttle_charge_fast(struct swiotlb_throttle *t,
						 unsigned int slots)
{
	long far = READ_ONCE(t->far);

	if (unlikely(percpu_counter_read_positive(&t->used) + slots > far))
		return throttle_charge_room(t, slots);

	/* Taken back on another CPU, a sum could miss the one, see the other. */
	preempt_disable();
	throttle_add(t, slots);
	/* Pairs with the barrier in swiotlb_throttle_dispatch(). */
	smp_mb();
	/* Pairs with the release in throttle_leave_room(). */
	far = smp_load_acquire(&t->far);
	if (unlikely(percpu_counter_read_positive(&t->used) > far)) {
		throttle_take_back(t, slots);
		return false;
	}
	preempt_enable();
	return true;
}

/* Jiffies until a wait that began at @start is to end; 0 or less: now. */
static long throttle_time_left(struct swiotlb_throttle *t,
			       unsigned long start, int cap_ms,
			       bool *stalled)
{
	long stall = READ_ONCE(t->last_freed) - jiffies +
		msecs_to_jiffies(READ_ONCE(swiotlb_throttle_params.stall_ms));
	long cap = start - jiffies + msecs_to_jiffies(cap_ms);

	*stalled = stall <= 0;
	return min(stall, cap);
}

static void throttle_give_up(struct swiotlb_throttle *t, bool stalled)
{
	throttle_sub_waiting(t);
	if (stalled)
		t->timed_out++;
	else
		t->capped++;
}

/* A wait that takes longer is worth more memory, where a pool can grow; 20 ms. */
#define THROTTLE_GROW_AFTER	(HZ / 50 + 1)
/* For those who still wait then it grows again. */
#define THROTTLE_GROW_PAUSE	(HZ / 10)

/* Returns when to call it again, in jiffies. */
static unsigned long throttle_grow(struct swiotlb_throttle *t)
{
	unsigned long again;

	spin_lock_irq(&t->wait.lock);
	if (time_after_eq(jiffies, t->grow_again)) {
		t->grow_again = jiffies + THROTTLE_GROW_PAUSE;
		swiotlb_throttle_grow(t->mem);
	}
	again = t->grow_again;
	spin_unlock_irq(&t->wait.lock);
	return again;
}

static const char *throttle_outcome(struct throttle_waiter *w, bool stalled)
{
	if (w->admitted)
		return w->attrs & __DMA_ATTR_SERIALIZED ? "serialized" : "admitted";
	return stalled ? "timed out" : "capped";
}

/*
 * Sleep until @w is admitted, or until it goes ahead unasked because its time
 * is up.
 */
static void throttle_sleep(struct swiotlb_throttle *t, struct device *dev,
			   struct throttle_waiter *w)
{
	struct swiotlb_throttle_params *params = &swiotlb_throttle_params;
	bool grow = swiotlb_throttle_can_grow(t->mem);
	unsigned long start = jiffies;
	unsigned long grow_at = start + THROTTLE_GROW_AFTER;
	unsigned long wakeups = 0;
	bool stalled = false;
	long left;

	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		if (READ_ONCE(w->admitted))
			break;
		left = throttle_time_left(t, start,
					  READ_ONCE(params->cap_ms), &stalled);
		if (left <= 0)
			break;
		if (grow && time_after_eq(jiffies, grow_at)) {
			__set_current_state(TASK_RUNNING);
			grow_at = throttle_grow(t);
			continue;
		}
		if (grow)
			left = min(left, max((long)(grow_at - jiffies), 1L));
		io_schedule_timeout(left);
		wakeups++;
	}
	__set_current_state(TASK_RUNNING);

	spin_lock_irq(&t->wait.lock);
	t->wakeups += wakeups;
	if (!w->admitted) {
		throttle_leave(t, w);
		/* It need not try again to wait: the map may fail now. */
		w->attrs &= ~DMA_ATTR_MAY_BLOCK;
		throttle_note_wait(t, w->since);
		throttle_charge(t, w);
		throttle_give_up(t, stalled);
		/* There may be a new head of the queue, one that fits. */
		swiotlb_throttle_dispatch(t);
	}
	spin_unlock_irq(&t->wait.lock);
	trace_swiotlb_throttle_end(dev, w->slots, w->since,
				   throttle_outcome(w, stalled));
}

/*
 * Close to the threshold.  Returns the attributes for the maps of the request,
 * or 0 if it would have to wait and @may_block is not set.
 */
static unsigned long throttle_admit_slow(struct swiotlb_throttle *t,
					 struct device *dev,
					 unsigned int slots, bool may_block)
{
	struct throttle_waiter w = {
		.wait		= {
			.private	= current,
			.func		= throttle_wake_task,
		},
		.slots		= slots,
		.attrs		= __DMA_ATTR_ADMITTED,
		.since		= ktime_get(),
	};
	struct list_head *queue = &t->wait.head;
	bool first, wait;
	unsigned int waiting;
	unsigned long flags;
	int active;

	if (may_block)
		w.attrs |= DMA_ATTR_MAY_BLOCK;

	spin_lock_irqsave(&t->wait.lock, flags);
	active = t->active;
	w.share = throttle_claim_share(t, dev);
	first = list_empty(queue);
	/* Behind those of its device that are set aside, if it would follow them. */
	if (first && w.share && !list_empty(&w.share->waiters)) {
		queue = &w.share->waiters;
		first = false;
	}
	/* Who does not wait does not pass those who do. */
	if (!first && !may_block) {
		/* But the shares are smaller now. */
		if (t->active > active)
			swiotlb_throttle_dispatch(t);
		spin_unlock_irqrestore(&t->wait.lock, flags);
		return 0;
	}

	throttle_add_waiting(t);
	throttle_join(t, &w, queue);
	/*
	 * Nobody has to look on behalf of one who is not the first, unless the
	 * first asks for more than its share, now that it is smaller, or a share
	 * may have become larger.
	 */
	if (first || t->active > active ||
	    time_after_eq(jiffies, t->expired + THROTTLE_SHARE_IDLE) ||
	    atomic_long_read(&t->freed) >= t->goal)
		swiotlb_throttle_dispatch(t);
	if (!w.admitted && !may_block) {
		throttle_leave(t, &w);
		throttle_sub_waiting(t);
		/* Nobody but those set aside has to be looked at for now. */
		if (list_empty(&t->set_aside))
			WRITE_ONCE(t->goal, LONG_MAX);
		w.attrs = 0;
	}
	wait = !w.admitted && may_block;
	if (wait)
		t->throttled++;
	waiting = t->waiting;
	spin_unlock_irqrestore(&t->wait.lock, flags);

	if (wait) {
		trace_swiotlb_throttle_begin(dev, slots, waiting);
		throttle_sleep(t, dev, &w);
	}
	return w.attrs;
}

/*
 * The room that was freed may do for one in the retry list.  It goes to the
 * end of it, and wakes the next one when it has searched, until all have.
 */
static void throttle_wake_retry(struct swiotlb_throttle *t)
{
	struct dma_retry *retry;

	lockdep_assert_held(&t->wait.lock);

	list_for_each_entry(retry, &t->retry, entry) {
		if (retry->seen == t->retry_seq)
			continue;
		list_move_tail(&retry->entry, &t->retry);
		wake_up_process(retry->task);
		break;
	}
}

static void throttle_note_room(struct swiotlb_throttle *t)
{
	unsigned long flags;

	if (!READ_ONCE(t->nr_retry))
		return;
	spin_lock_irqsave(&t->wait.lock, flags);
	WRITE_ONCE(t->retry_seq, t->retry_seq + 1);
	throttle_wake_retry(t);
	spin_unlock_irqrestore(&t->wait.lock, flags);
}

/**
 * swiotlb_may_wait() - can a map for this device wait for slots?
 * @dev:	Device to map for.
 *
 * Only dma-direct admits a list before it maps the first piece.  dma-iommu and
 * Xen bounce pieces of a list one by one, and would sleep while they hold some:
 * their maps are counted and never wait.
 *
 * Context: Any.
 * Return: %true if all mappings of @dev bounce through a throttled pool, by way
 * of dma-direct.
 */
bool swiotlb_may_wait(struct device *dev)
{
	struct io_tlb_mem *mem = dev->dma_io_tlb_mem;

	return mem && mem->throttle &&
		(mem->force_bounce || force_dma_unencrypted(dev)) &&
		!use_dma_iommu(dev) && !get_dma_ops(dev);
}
EXPORT_SYMBOL_IF_KUNIT(swiotlb_may_wait);

/**
 * swiotlb_throttle_admit() - take slots for the maps of one request
 * @dev:	Device to map for.
 * @slots:	Slots that the maps of the request will take, from
 *		swiotlb_nr_slots().
 * @attrs:	%DMA_ATTR_MAY_BLOCK or 0; updated to what the maps must carry.
 *
 * See dma_admit().
 *
 * Context: May sleep if @attrs has %DMA_ATTR_MAY_BLOCK; otherwise any.
 * Return: 0, or -EAGAIN if the request would have to wait and must not.
 */
int swiotlb_throttle_admit(struct device *dev, unsigned int slots,
			   unsigned long *attrs)
{
	bool may_block = *attrs & DMA_ATTR_MAY_BLOCK;
	struct swiotlb_throttle *t;

	*attrs &= ~SWIOTLB_THROTTLE_ATTRS;
	if (!slots || !static_branch_unlikely(&swiotlb_throttle_key) ||
	    !swiotlb_may_wait(dev))
		return 0;

	t = dev->dma_io_tlb_mem->throttle;
	/* No wait makes room for it: its maps fail, and say so at once. */
	if (slots > t->mem->nslabs)
		return 0;
	if (!throttle_charge_fast(t, slots))
		*attrs |= throttle_admit_slow(t, dev, slots, may_block);
	else if (may_block)
		*attrs |= __DMA_ATTR_ADMITTED | DMA_ATTR_MAY_BLOCK;
	else
		*attrs |= __DMA_ATTR_ADMITTED;
	/* Nobody waits when it is off, so a map that fails does for good. */
	if (READ_ONCE(t->high) == SWIOTLB_THROTTLE_OFF)
		*attrs &= ~DMA_ATTR_MAY_BLOCK;
	return *attrs & __DMA_ATTR_ADMITTED ? 0 : -EAGAIN;
}
EXPORT_SYMBOL_IF_KUNIT(swiotlb_throttle_admit);

/**
 * swiotlb_throttle_unadmit() - give back what swiotlb_throttle_admit() took
 * @dev:	Device.
 * @slots:	As for swiotlb_throttle_admit().
 * @attrs:	As updated by swiotlb_throttle_admit().
 *
 * See dma_unadmit().
 */
void swiotlb_throttle_unadmit(struct device *dev, unsigned int slots,
			      unsigned long attrs)
{
	if (!(attrs & __DMA_ATTR_ADMITTED))
		return;
	swiotlb_throttle_uncharge(dev, slots, attrs);
	/* Perhaps some of them were taken, and undone. */
	throttle_note_room(dev->dma_io_tlb_mem->throttle);
}
EXPORT_SYMBOL_IF_KUNIT(swiotlb_throttle_unadmit);

/**
 * __swiotlb_throttle_admit_sg() - take slots for all maps of a list
 * @dev:	Device to map for.
 * @sgl:	Scatterlist, not yet mapped.
 * @nents:	Number of entries.
 * @attrs:	Attributes of the map call, with %DMA_ATTR_MAY_BLOCK; updated to
 *		what its pieces carry.
 *
 * Context: May sleep.
 * Return: Number of slots taken, to be given back if the list is not mapped.
 */
unsigned int __swiotlb_throttle_admit_sg(struct device *dev,
					 struct scatterlist *sgl, int nents,
					 unsigned long *attrs)
{
	unsigned long admitted = DMA_ATTR_MAY_BLOCK;
	unsigned int slots = 0, piece;
	struct scatterlist *sg;
	int i;

	*attrs &= ~DMA_ATTR_MAY_BLOCK;
	/*
	 * Shared and peer memory may not bounce: such a list is not held up, and
	 * its pieces are counted one by one.
	 */
	if (!swiotlb_may_wait(dev) ||
	    *attrs & (DMA_ATTR_CC_SHARED | DMA_ATTR_MMIO |
		      DMA_ATTR_REQUIRE_COHERENT))
		return 0;
	for_each_sg(sgl, sg, nents, i) {
		if (is_pci_p2pdma_page(sg_page(sg)))
			return 0;
		piece = swiotlb_nr_slots(dev, sg_phys(sg), sg->length);
		/* No wait makes room for it, so the list is to fail at once. */
		if (piece > IO_TLB_SEGSIZE)
			return 0;
		slots += piece;
	}

	swiotlb_throttle_admit(dev, slots, &admitted);
	*attrs |= admitted;
	return admitted ? slots : 0;
}

/**
 * __swiotlb_throttle_begin() - account for a map that may wait, or is admitted
 * @dev:	Device to map for.
 * @slots:	Slots that the map will take.
 * @attrs:	Attributes of the map call, with one of SWIOTLB_THROTTLE_ATTRS.
 *
 * Context: May sleep if @attrs has %DMA_ATTR_MAY_BLOCK.
 * Return: the attributes that the later hooks of the call need.
 */
unsigned long __swiotlb_throttle_begin(struct device *dev, unsigned int slots,
				       unsigned long attrs)
{
	struct swiotlb_throttle *t = dev->dma_io_tlb_mem->throttle;

	if (attrs & __DMA_ATTR_ADMITTED)
		return attrs & SWIOTLB_THROTTLE_ATTRS;

	/* What is too large for a mapping fails at once, as it always did. */
	if (unlikely(!swiotlb_may_wait(dev) || slots > IO_TLB_SEGSIZE)) {
		throttle_add_unasked(t, slots);
		return 0;
	}
	if (likely(throttle_charge_fast(t, slots)))
		return DMA_ATTR_MAY_BLOCK;
	return throttle_admit_slow(t, dev, slots, true) & ~__DMA_ATTR_ADMITTED;
}

/* The serialized request gives back @slots, perhaps its last. */
static void throttle_unserialize(struct swiotlb_throttle *t,
				 unsigned int slots)
{
	unsigned long flags;

	spin_lock_irqsave(&t->wait.lock, flags);
	t->serial_slots -= slots;
	if (WARN_ON_ONCE(t->serial_slots < 0))
		t->serial_slots = 0;
	if (!t->serial_slots)
		swiotlb_throttle_dispatch(t);
	spin_unlock_irqrestore(&t->wait.lock, flags);
}

/*
 * Before throttle_sub(): who looks at the queue then sees it.  Returns whether
 * that is due, because the device has given back enough.
 */
static bool throttle_uncount(struct swiotlb_throttle *t, struct device *dev,
			     unsigned int slots)
{
	struct throttle_share *share = throttle_find_share(t, dev);
	long held;

	if (WARN_ON_ONCE(!share))
		return false;
	/* A full barrier: see the end of swiotlb_throttle_dispatch(). */
	held = atomic_long_sub_return(slots, &share->held);
	return held <= READ_ONCE(share->goal);
}

/**
 * swiotlb_throttle_uncharge() - give back slots that were promised, not taken
 * @dev:	Device they were promised to.
 * @slots:	Number of slots.
 * @attrs:	Attributes that the promise came with.
 *
 * Context: Any; does not sleep.
 */
void swiotlb_throttle_uncharge(struct device *dev, unsigned int slots,
			       unsigned long attrs)
{
	struct swiotlb_throttle *t = dev->dma_io_tlb_mem->throttle;
	bool waiting, look = false;

	if (attrs & __DMA_ATTR_COUNTED)
		look = throttle_uncount(t, dev, slots);
	waiting = throttle_sub(t, slots);
	if (attrs & __DMA_ATTR_SERIALIZED)
		throttle_unserialize(t, slots);
	if (waiting)
		throttle_note_freed(t, slots, look);
}

/* @slots have been unmapped while somebody waits. */
static void throttle_note_unmap(struct swiotlb_throttle *t, unsigned int slots,
				bool look)
{
	unsigned long now = jiffies;

	if (READ_ONCE(t->last_freed) != now)
		WRITE_ONCE(t->last_freed, now);
	throttle_note_freed(t, slots, look);
	throttle_note_room(t);
}

/**
 * swiotlb_throttle_freed() - slots have been unmapped while somebody waits
 * @dev:	Device they were mapped for.
 * @slots:	Number of slots, free already and no longer counted.
 *
 * Context: Any; does not sleep.
 */
void swiotlb_throttle_freed(struct device *dev, unsigned int slots)
{
	throttle_note_unmap(dev->dma_io_tlb_mem->throttle, slots, false);
}

/**
 * __swiotlb_throttle_release() - unmapped slots of which something is remembered
 * @dev:	Device they were mapped for.
 * @slots:	Number of slots, free already.
 * @slot:	What the first of them remembered, SWIOTLB_SLOT_*.
 *
 * Context: Any; does not sleep.
 */
void __swiotlb_throttle_release(struct device *dev, unsigned int slots,
				unsigned char slot)
{
	struct swiotlb_throttle *t = dev->dma_io_tlb_mem->throttle;
	bool waiting, look = false;

	/* Its request keeps them, and is going to map again or to give up. */
	if (slot & SWIOTLB_SLOT_UNDONE)
		return;

	if (slot & SWIOTLB_SLOT_COUNTED)
		look = throttle_uncount(t, dev, slots);
	waiting = throttle_sub(t, slots);
	if (slot & SWIOTLB_SLOT_SERIALIZED)
		throttle_unserialize(t, slots);
	if (waiting)
		throttle_note_unmap(t, slots, look);
}

/* After how long others are held back for a map that finds no room, and till when. */
#define THROTTLE_DRAIN_START	(HZ / 10)
#define THROTTLE_DRAIN_END	(HZ / 2)
/* If that did not help, nobody is held back for so long. */
#define THROTTLE_DRAIN_PAUSE	(5 * HZ)

/* Others are not held back (any more) for @retry. */
static void throttle_drain_end(struct swiotlb_throttle *t,
			       struct dma_retry *retry)
{
	lockdep_assert_held(&t->wait.lock);

	if (t->drain != retry)
		return;
	t->drain = NULL;
	swiotlb_throttle_dispatch(t);
}

/* Returns the jiffies after which @retry is to search again, unmap or not. */
static long throttle_drain(struct swiotlb_throttle *t, struct dma_retry *retry)
{
	long age = jiffies - retry->start;

	lockdep_assert_held(&t->wait.lock);

	if (age < THROTTLE_DRAIN_START)
		return THROTTLE_DRAIN_START - age;
	if (age < THROTTLE_DRAIN_END) {
		if (!t->drain && time_after_eq(jiffies, t->drain_again))
			t->drain = retry;
		return THROTTLE_DRAIN_END - age;
	}
	if (t->drain == retry)
		t->drain_again = jiffies + THROTTLE_DRAIN_PAUSE;
	throttle_drain_end(t, retry);
	return THROTTLE_DRAIN_START;
}

/*
 * Sleep until an unmap, or until it is time for another search all the same:
 * two that undo what they hold at the same time do not tell each other.
 */
static void throttle_sleep_retry(struct swiotlb_throttle *t,
				 struct dma_retry *retry)
{
	long left, next;
	int cap_ms;

	spin_lock_irq(&t->wait.lock);
	next = throttle_drain(t, retry);
	/* It searched in vain; another one may find room. */
	throttle_wake_retry(t);
	spin_unlock_irq(&t->wait.lock);

	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		/* The wait for the admission may have been as long as the cap. */
		cap_ms = READ_ONCE(swiotlb_throttle_params.cap_ms) / 2;
		left = throttle_time_left(t, retry->start, cap_ms,
					  &retry->stalled);
		retry->last = left <= 0 ||
			READ_ONCE(t->high) == SWIOTLB_THROTTLE_OFF;
		if (retry->last || next <= 0 ||
		    READ_ONCE(t->retry_seq) != retry->seen)
			break;
		next = min(left, next);
		next = io_schedule_timeout(next);
	}
	__set_current_state(TASK_RUNNING);
}

/**
 * __swiotlb_throttle_retry() - wait for an unmap after a search found no room
 * @dev:	Device which maps.
 * @failed:	The search failed; if not, the waiting is over.
 * @retry:	State, initialized by dma_retry_init().
 *
 * To be called after each search until it returns %false.  The first call only
 * makes the caller known, and the search that follows closes the race with
 * those who did not see it yet.
 *
 * Context: May sleep.  The caller must hold nothing of the pool.
 * Return: %true if another search may find room.
 */
bool __swiotlb_throttle_retry(struct device *dev, bool failed,
			      struct dma_retry *retry)
{
	struct swiotlb_throttle *t = dev->dma_io_tlb_mem->throttle;
	bool off = READ_ONCE(t->high) == SWIOTLB_THROTTLE_OFF;

	if (failed && !retry->queued) {
		if (off)
			return false;
		retry->task = current;
		retry->start = jiffies;
		retry->since = ktime_get();
		retry->queued = true;
		retry->last = false;
		spin_lock_irq(&t->wait.lock);
		throttle_add_waiting(t);
		t->retried++;
		/* What it has just undone may be room for another one. */
		WRITE_ONCE(t->retry_seq, t->retry_seq + 1);
		throttle_wake_retry(t);
		list_add_tail(&retry->entry, &t->retry);
		WRITE_ONCE(t->nr_retry, t->nr_retry + 1);
		retry->seen = t->retry_seq;
		spin_unlock_irq(&t->wait.lock);
		/* Pairs with the barrier in throttle_sub(). */
		smp_mb();
		return true;
	}

	if (failed && !off && !retry->last) {
		throttle_sleep_retry(t, retry);
		spin_lock_irq(&t->wait.lock);
		retry->seen = t->retry_seq;
		spin_unlock_irq(&t->wait.lock);
		return true;
	}

	spin_lock_irq(&t->wait.lock);
	list_del(&retry->entry);
	retry->queued = false;
	WRITE_ONCE(t->nr_retry, t->nr_retry - 1);
	throttle_note_wait(t, retry->since);
	if (failed && !off)
		throttle_give_up(t, retry->stalled);
	else
		throttle_sub_waiting(t);
	throttle_drain_end(t, retry);
	/* Perhaps it did not use all the room, or none. */
	throttle_wake_retry(t);
	spin_unlock_irq(&t->wait.lock);
	return false;
}

/* Slots in the part of a CPU: 32 requests of 128 KiB, so folds are rare enough. */
#define THROTTLE_MAX_BATCH	2048

/* The thresholds follow the parameters and the size of the pool. */
static void throttle_set_thresholds(struct swiotlb_throttle *t)
{
	unsigned long nslabs = t->mem->nslabs;
	struct throttle_share *share;
	struct throttle_waiter *w;
	struct dma_retry *retry;
	unsigned int ncpus = num_possible_cpus();
	unsigned long flags;
	s32 batch;

	lockdep_assert_held(&swiotlb_throttle_mutex);

	/*
	 * The parts of all CPUs add up to an eighth of the pool at most: so much
	 * below the threshold the lock is taken. With less, the parts would
	 * fold into the central count more often.
	 */
	batch = clamp_t(unsigned long, nslabs / (8 * ncpus), 1,
			THROTTLE_MAX_BATCH);

	spin_lock_irqsave(&t->wait.lock, flags);
	/* A part may have grown up to the old batch, so it never shrinks. */
	batch = max(t->batch, batch);
	t->slack = (long)batch * ncpus;
	/* What can be given out without another sum. */
	t->max_room = max(nslabs / 16, 1UL);
	WRITE_ONCE(t->low, mult_frac(nslabs, swiotlb_throttle_params.low, 100));
	if (swiotlb_throttle_params.high == 100)
		WRITE_ONCE(t->high, SWIOTLB_THROTTLE_OFF);
	else
		WRITE_ONCE(t->high, mult_frac(nslabs,
					      swiotlb_throttle_params.high, 100));
	/* Whoever comes next finds out whether @high is far. */
	throttle_close(t);
	/*
	 * No part must grow to a batch that @far does not allow for.  Pairs with
	 * the barriers that follow a charge in throttle_charge_fast() and
	 * throttle_charge_room().
	 */
	smp_wmb();
	WRITE_ONCE(t->batch, batch);
	swiotlb_throttle_dispatch(t);

	/* Those who still wait have to look at the timeouts again. */
	list_for_each_entry(w, &t->wait.head, wait.entry)
		w->wait.func(&w->wait, TASK_NORMAL, 0, NULL);
	list_for_each_entry(share, &t->set_aside, node) {
		list_for_each_entry(w, &share->waiters, wait.entry)
			w->wait.func(&w->wait, TASK_NORMAL, 0, NULL);
	}
	WRITE_ONCE(t->retry_seq, t->retry_seq + 1);
	list_for_each_entry(retry, &t->retry, entry)
		wake_up_process(retry->task);
	spin_unlock_irqrestore(&t->wait.lock, flags);
}

/**
 * swiotlb_throttle_set_params() - change the tunables of all pools
 * @new:	All of them.
 *
 * A change is in force at once, for those who wait already, too.
 *
 * Context: May sleep.
 * Return: 0, or -EINVAL if the values do not make sense; nothing has changed
 * then.
 */
int swiotlb_throttle_set_params(const struct swiotlb_throttle_params *new)
{
	struct swiotlb_throttle *t;

	if (new->low < 0 || new->low > new->high || new->high > 100 ||
	    new->stall_ms < 1 || new->stall_ms > new->cap_ms ||
	    new->cap_ms > SWIOTLB_THROTTLE_MAX_MS)
		return -EINVAL;

	mutex_lock(&swiotlb_throttle_mutex);
	WRITE_ONCE(swiotlb_throttle_params.high, new->high);
	WRITE_ONCE(swiotlb_throttle_params.low, new->low);
	WRITE_ONCE(swiotlb_throttle_params.stall_ms, new->stall_ms);
	WRITE_ONCE(swiotlb_throttle_params.cap_ms, new->cap_ms);
	list_for_each_entry(t, &swiotlb_throttles, node)
		throttle_set_thresholds(t);
	mutex_unlock(&swiotlb_throttle_mutex);
	return 0;
}
EXPORT_SYMBOL_IF_KUNIT(swiotlb_throttle_set_params);

static void swiotlb_throttle_attach(struct io_tlb_mem *mem)
{
	struct throttle_share *share;
	struct swiotlb_throttle *t;

	lockdep_assert_held(&swiotlb_throttle_mutex);

	t = kzalloc_obj(*t);
	if (!t || percpu_counter_init(&t->used, 0, GFP_KERNEL)) {
		kfree(t);
		pr_warn("no memory for the throttle, maps will not wait\n");
		return;
	}
	t->mem = mem;
	t->goal = LONG_MAX;
	t->drain_again = jiffies;
	t->grow_again = jiffies;
	init_waitqueue_head(&t->wait);
	INIT_LIST_HEAD(&t->retry);
	INIT_LIST_HEAD(&t->set_aside);
	for (share = t->shares; share < t->shares + THROTTLE_SHARES; share++) {
		INIT_LIST_HEAD(&share->waiters);
		INIT_LIST_HEAD(&share->node);
		share->goal = THROTTLE_NO_GOAL;
	}
	t->expired = jiffies;
	throttle_set_thresholds(t);
	list_add(&t->node, &swiotlb_throttles);
	/* The allocator is new, nobody uses it: no map goes uncounted. */
	mem->throttle = t;
	static_branch_enable(&swiotlb_throttle_key);
}

static struct io_tlb_mem *swiotlb_throttle_early_mem __initdata;

/**
 * swiotlb_throttle_resize() - an allocator has been made, or has grown
 * @mem:	Allocator.
 *
 * Only pools through which devices are forced to bounce are throttled: all
 * devices of the pool, or those that cannot reach the private memory of a
 * confidential guest.
 *
 * Context: May sleep, unless it is early in the boot.
 */
void __ref swiotlb_throttle_resize(struct io_tlb_mem *mem)
{
	if (!mem->force_bounce && !cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT))
		return;
	if (!slab_is_available()) {
		swiotlb_throttle_early_mem = mem;
		return;
	}

	mutex_lock(&swiotlb_throttle_mutex);
	if (mem->throttle)
		throttle_set_thresholds(mem->throttle);
	else if (mem->nslabs == mem->defpool.nslabs)
		swiotlb_throttle_attach(mem);
	mutex_unlock(&swiotlb_throttle_mutex);
}

/* The default pool is made before there is memory for its throttle. */
static int __init swiotlb_throttle_init(void)
{
	if (swiotlb_throttle_early_mem)
		swiotlb_throttle_resize(swiotlb_throttle_early_mem);
	return 0;
}
core_initcall(swiotlb_throttle_init);

#if IS_ENABLED(CONFIG_SWIOTLB_THROTTLE_KUNIT_TEST)
/* Devices outlive their pools' throttles everywhere but in the tests. */
void swiotlb_throttle_detach(struct io_tlb_mem *mem)
{
	struct swiotlb_throttle *t = mem->throttle;

	mutex_lock(&swiotlb_throttle_mutex);
	list_del(&t->node);
	mutex_unlock(&swiotlb_throttle_mutex);
	mem->throttle = NULL;
	percpu_counter_destroy(&t->used);
	kfree(t);
	/* The key stays on: other pools may be throttled. */
}
EXPORT_SYMBOL_IF_KUNIT(swiotlb_throttle_detach);
#endif
