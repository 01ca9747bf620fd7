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
 * where admission is decided by the sum, swiotlb_throttle_dispatch().
 *
 * Waking.  While nobody waits, an unmap only reads @waiting.  While somebody
 * does, it adds to @freed, and the unmap that lifts @freed to @goal looks at
 * the queue.  The dispatcher sets the goal to what must be freed before usage
 * can be down at low (or the head of the queue fits, if that takes more), so
 * the sum over all CPUs is made once for many unmaps.  A goal reached although
 * others took slots meanwhile is set anew.
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
#include <linux/init.h>
#include <linux/iommu-dma.h>
#include <linux/jiffies.h>
#include <linux/memremap.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <kunit/visibility.h>

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
 *		been admitted and is to leave the queue; without one, that it
 *		should look at the time again.  The slots are charged by the
 *		caller, so that a func need not know how, and the one who waits
 *		need not be a task.
 * @slots:	What it needs.
 * @attrs:	What its maps are to carry, once it is admitted.
 * @admitted:	The waker charged @slots.
 * @since:	When it joined the queue.
 */
struct throttle_waiter {
	struct wait_queue_entry wait;
	unsigned int slots;
	unsigned long attrs;
	bool admitted;
	ktime_t since;
};

static struct throttle_waiter *throttle_first_waiter(struct swiotlb_throttle *t)
{
	return list_first_entry_or_null(&t->wait.head, struct throttle_waiter,
					wait.entry);
}

static int throttle_wake_task(struct wait_queue_entry *wait, unsigned int mode,
			      int wake_flags, void *key)
{
	struct throttle_waiter *w =
		container_of(wait, struct throttle_waiter, wait);

	if (key) {
		list_del_init(&wait->entry);
		/* The task takes the lock that we hold before it drops @w. */
		WRITE_ONCE(w->admitted, true);
	}
	return default_wake_function(wait, mode, wake_flags, key);
}

static void throttle_note_wait(struct swiotlb_throttle *t, ktime_t since)
{
	s64 waited = ktime_to_ns(ktime_sub(ktime_get(), since));

	lockdep_assert_held(&t->wait.lock);

	WRITE_ONCE(t->longest_wait, max(t->longest_wait, waited));
}

static void throttle_add(struct swiotlb_throttle *t, long slots)
{
	percpu_counter_add_batch(&t->used, slots, READ_ONCE(t->batch));
}

/*
 * Admit from the head of the queue whoever fits, and say when to look again.
 *
 * No MAY_BLOCK request is admitted elsewhere meanwhile: @waiting is not 0, and
 * throttle_charge_fast() takes its charge back when it sees that.  So one sum
 * serves all.  It is no snapshot: a map that cannot wait, and whose unmap on
 * another CPU is seen when it is not, makes it too small by the slots of that
 * map.  Those that can wait are exact among themselves.
 */
static void swiotlb_throttle_dispatch(struct swiotlb_throttle *t)
{
	struct throttle_waiter *w;
	long high, low, used, freed, target;

	lockdep_assert_held(&t->wait.lock);

again:
	/* A slot freed from here on counts towards the goal. */
	freed = atomic_long_read(&t->freed);
	/*
	 * Pairs with the barriers in throttle_charge_fast() and
	 * throttle_sub(): whoever does not see @waiting set is
	 * seen by the sum.  It also keeps the sum behind the read of @freed.
	 */
	smp_mb();
	used = percpu_counter_sum(&t->used);
	high = t->high;
	low = t->low;

	while ((w = throttle_first_waiter(t))) {
		if (used + w->slots > high || t->drain) {
			if (t->serial_slots)
				break;
			t->serial_slots = w->slots;
			t->serialized++;
			w->attrs |= __DMA_ATTR_SERIALIZED;
		}
		throttle_add(t, w->slots);
		used += w->slots;
		throttle_note_wait(t, w->since);
		/*
		 * Pairs with the acquire in throttle_charge_fast(): who sees
		 * that nobody waits any more also sees this charge.
		 */
		smp_store_release(&t->waiting, t->waiting - 1);
		w->wait.func(&w->wait, TASK_NORMAL, 0, w);
	}

	/*
	 * What is larger than the threshold waits for the serialized place. When
	 * the pool has been drained, this is called again.
	 */
	if (!w || w->slots > high || t->drain) {
		WRITE_ONCE(t->goal, LONG_MAX);
		return;
	}

	target = min(low, high - (long)w->slots);
	WRITE_ONCE(t->goal, freed + used - target);
	/*
	 * Pairs with atomic_long_add_return() in throttle_note_freed(): an
	 * unmap that compared with the old goal has been counted by now.
	 */
	smp_mb();
	if (atomic_long_read(&t->freed) >= t->goal)
		goto again;
}

/*
 * @slots have been given back while somebody waits.  Who does not reach the
 * goal leaves the queue alone.
 */
static void throttle_note_freed(struct swiotlb_throttle *t, unsigned int slots)
{
	unsigned long flags;
	long freed;

	/* A full barrier: see the end of swiotlb_throttle_dispatch(). */
	freed = atomic_long_add_return(slots, &t->freed);
	if (freed < READ_ONCE(t->goal))
		return;

	spin_lock_irqsave(&t->wait.lock, flags);
	if (atomic_long_read(&t->freed) >= t->goal)
		swiotlb_throttle_dispatch(t);
	spin_unlock_irqrestore(&t->wait.lock, flags);
}

/* Returns whether somebody waits, who then has to be told. */
static bool throttle_sub(struct swiotlb_throttle *t, long slots)
{
	throttle_add(t, -slots);
	/*
	 * Either the sum in swiotlb_throttle_dispatch() sees the slots gone or
	 * we see that somebody waits.
	 */
	smp_mb();
	return unlikely(READ_ONCE(t->waiting));
}

/*
 * The admission of a request far from the threshold.  Whoever adds first and
 * then finds the central count plus @slack within the threshold knows that the
 * sum is, whatever others add at the same time: they add before they look, too.
 */
static bool throttle_charge_fast(struct swiotlb_throttle *t,
				 unsigned int slots)
{
	bool fits, waiting = false;

	if (READ_ONCE(t->waiting) ||
	    percpu_counter_read_positive(&t->used) + READ_ONCE(t->slack) +
	    slots > READ_ONCE(t->high))
		return false;

	/* Taken back on another CPU, a sum could miss the one, see the other. */
	preempt_disable();
	throttle_add(t, slots);
	/* Pairs with the barrier in swiotlb_throttle_dispatch(). */
	smp_mb();
	/* Pairs with the release there. */
	fits = !smp_load_acquire(&t->waiting) &&
		percpu_counter_read_positive(&t->used) + READ_ONCE(t->slack) <=
		READ_ONCE(t->high);
	if (!fits)
		waiting = throttle_sub(t, slots);
	preempt_enable();

	/* A sum may have seen it, and a waiter been kept waiting for it. */
	if (waiting)
		throttle_note_freed(t, slots);
	return fits;
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

/* Somebody is about to wait; the first one starts the clock of a stall. */
static void throttle_add_waiting(struct swiotlb_throttle *t)
{
	lockdep_assert_held(&t->wait.lock);

	if (!t->waiting)
		WRITE_ONCE(t->last_freed, jiffies);
	WRITE_ONCE(t->waiting, t->waiting + 1);
}

static void throttle_give_up(struct swiotlb_throttle *t, bool stalled)
{
	lockdep_assert_held(&t->wait.lock);

	WRITE_ONCE(t->waiting, t->waiting - 1);
	if (stalled)
		t->timed_out++;
	else
		t->capped++;
}

/*
 * Sleep until @w is admitted, or until it goes ahead unasked because its time
 * is up.
 */
static void throttle_sleep(struct swiotlb_throttle *t,
			   struct throttle_waiter *w)
{
	struct swiotlb_throttle_params *params = &swiotlb_throttle_params;
	unsigned long start = jiffies;
	unsigned long wakeups = 0;
	bool stalled;
	long left;

	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		if (READ_ONCE(w->admitted))
			break;
		left = throttle_time_left(t, start,
					  READ_ONCE(params->cap_ms), &stalled);
		if (left <= 0)
			break;
		io_schedule_timeout(left);
		wakeups++;
	}
	__set_current_state(TASK_RUNNING);

	spin_lock_irq(&t->wait.lock);
	t->wakeups += wakeups;
	if (!w->admitted) {
		list_del_init(&w->wait.entry);
		/* It need not try again to wait: the map may fail now. */
		w->attrs &= ~DMA_ATTR_MAY_BLOCK;
		throttle_note_wait(t, w->since);
		throttle_give_up(t, stalled);
		throttle_add(t, w->slots);
		/* There may be a new head of the queue, one that fits. */
		swiotlb_throttle_dispatch(t);
	}
	spin_unlock_irq(&t->wait.lock);
}

/*
 * Close to the threshold.  Returns the attributes for the maps of the request,
 * or 0 if it would have to wait and @may_block is not set.
 */
static unsigned long throttle_admit_slow(struct swiotlb_throttle *t,
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
	unsigned long flags;
	bool first, wait;

	if (may_block)
		w.attrs |= DMA_ATTR_MAY_BLOCK;

	spin_lock_irqsave(&t->wait.lock, flags);
	first = list_empty(&t->wait.head);
	/* Who does not wait does not pass those who do. */
	if (!first && !may_block) {
		spin_unlock_irqrestore(&t->wait.lock, flags);
		return 0;
	}

	throttle_add_waiting(t);
	__add_wait_queue_entry_tail(&t->wait, &w.wait);
	/* Nobody has to look on behalf of one who is not the first. */
	if (first || atomic_long_read(&t->freed) >= t->goal)
		swiotlb_throttle_dispatch(t);
	if (!w.admitted && !may_block) {
		list_del(&w.wait.entry);
		WRITE_ONCE(t->waiting, t->waiting - 1);
		WRITE_ONCE(t->goal, LONG_MAX);
		w.attrs = 0;
	}
	wait = !w.admitted && may_block;
	if (wait)
		t->throttled++;
	spin_unlock_irqrestore(&t->wait.lock, flags);

	if (wait)
		throttle_sleep(t, &w);
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
	if (throttle_charge_fast(t, slots)) {
		*attrs |= __DMA_ATTR_ADMITTED;
		/* Nobody waits, so a map that fails does for good. */
		if (may_block && READ_ONCE(t->high) != SWIOTLB_THROTTLE_OFF)
			*attrs |= DMA_ATTR_MAY_BLOCK;
		return 0;
	}
	*attrs |= throttle_admit_slow(t, slots, may_block);
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
	struct swiotlb_throttle *t;

	if (!(attrs & __DMA_ATTR_ADMITTED))
		return;
	t = dev->dma_io_tlb_mem->throttle;
	swiotlb_throttle_uncharge(t, slots, attrs & __DMA_ATTR_SERIALIZED);
	/* Perhaps some of them were taken, and undone. */
	throttle_note_room(t);
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
	struct scatterlist *sg;
	unsigned int slots = 0;
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
		slots += swiotlb_nr_slots(dev, sg_phys(sg), sg->length);
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
	if (!swiotlb_may_wait(dev) || slots > IO_TLB_SEGSIZE) {
		throttle_add(t, slots);
		return 0;
	}
	if (throttle_charge_fast(t, slots))
		return DMA_ATTR_MAY_BLOCK;
	return throttle_admit_slow(t, slots, true) & ~__DMA_ATTR_ADMITTED;
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

/**
 * swiotlb_throttle_uncharge() - give back slots that were promised, not taken
 * @t:		Throttle.
 * @slots:	Number of slots.
 * @serialized:	They were promised to the serialized request.
 *
 * Context: Any; does not sleep.
 */
void swiotlb_throttle_uncharge(struct swiotlb_throttle *t, unsigned int slots,
			       bool serialized)
{
	bool waiting = throttle_sub(t, slots);

	if (serialized)
		throttle_unserialize(t, slots);
	if (waiting)
		throttle_note_freed(t, slots);
}

/**
 * __swiotlb_throttle_release() - slots have been unmapped
 * @t:		Throttle.
 * @slots:	Number of slots, free already.
 * @slot:	What the first of them remembered, SWIOTLB_SLOT_*.
 *
 * Context: Any; does not sleep.
 */
void __swiotlb_throttle_release(struct swiotlb_throttle *t, unsigned int slots,
				unsigned char slot)
{
	unsigned long now;

	/* Its request keeps them, and is going to map again or to give up. */
	if (unlikely(slot & SWIOTLB_SLOT_UNDONE))
		return;

	if (!throttle_sub(t, slots)) {
		if (unlikely(slot & SWIOTLB_SLOT_SERIALIZED))
			throttle_unserialize(t, slots);
		return;
	}

	now = jiffies;
	if (READ_ONCE(t->last_freed) != now)
		WRITE_ONCE(t->last_freed, now);
	if (slot & SWIOTLB_SLOT_SERIALIZED)
		throttle_unserialize(t, slots);
	throttle_note_freed(t, slots);
	throttle_note_room(t);
}
EXPORT_SYMBOL_IF_KUNIT(__swiotlb_throttle_release);

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
	return MAX_SCHEDULE_TIMEOUT;
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
		WRITE_ONCE(t->waiting, t->waiting - 1);
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
	WRITE_ONCE(t->slack, (long)batch * ncpus);
	/* No part must grow to a batch that @slack does not allow for. */
	smp_wmb();
	WRITE_ONCE(t->batch, batch);
	WRITE_ONCE(t->low, mult_frac(nslabs, swiotlb_throttle_params.low, 100));
	if (swiotlb_throttle_params.high == 100)
		WRITE_ONCE(t->high, SWIOTLB_THROTTLE_OFF);
	else
		WRITE_ONCE(t->high, mult_frac(nslabs,
					      swiotlb_throttle_params.high, 100));
	swiotlb_throttle_dispatch(t);

	/* Those who still wait have to look at the timeouts again. */
	list_for_each_entry(w, &t->wait.head, wait.entry)
		w->wait.func(&w->wait, TASK_NORMAL, 0, NULL);
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
	init_waitqueue_head(&t->wait);
	INIT_LIST_HEAD(&t->retry);
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
