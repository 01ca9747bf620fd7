/* SPDX-License-Identifier: GPL-2.0 */
/*
 * swiotlb throttling: the hooks of swiotlb.c and direct.c.
 *
 * All sizes are in slots (IO_TLB_SIZE bytes).
 */
#ifndef _KERNEL_DMA_SWIOTLB_THROTTLE_H
#define _KERNEL_DMA_SWIOTLB_THROTTLE_H

#include <linux/dma-mapping.h>
#include <linux/jump_label.h>
#include <linux/ktime.h>
#include <linux/list.h>
#include <linux/log2.h>
#include <linux/percpu_counter.h>
#include <linux/swiotlb.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

/*
 * What travels from swiotlb_throttle_begin() to the later hooks of one map
 * call is a subset of these attributes.
 */
#define SWIOTLB_THROTTLE_ATTRS \
	(DMA_ATTR_MAY_BLOCK | __DMA_ATTR_ADMITTED | __DMA_ATTR_SERIALIZED | \
	 __DMA_ATTR_COUNTED)

/**
 * swiotlb_nr_slots() - the slots that a streaming map of a buffer takes
 * @dev:	Device which maps the buffer.
 * @phys:	Physical address of the buffer.
 * @size:	Size of the buffer in bytes.
 *
 * Context: Any.
 * Return: the number that swiotlb_tbl_map_single() allocates when it is given
 * no alignment mask, exactly.
 */
static inline unsigned int swiotlb_nr_slots(struct device *dev,
					    phys_addr_t phys, size_t size)
{
	size_t offset = phys & dma_get_min_align_mask(dev) & (IO_TLB_SIZE - 1);

	return DIV_ROUND_UP(size + offset, IO_TLB_SIZE);
}

#ifdef CONFIG_SWIOTLB_THROTTLE

/**
 * struct throttle_share - what a device holds of the slots below the threshold
 * @dev:	Device, never dereferenced. Changes only while nothing is held.
 * @held:	Slots given to it while somebody waited, not yet given back.
 * @goal:	The value of @held from which those set aside are looked at.
 * @asked:	When it last asked for slots, in jiffies.
 * @active:	It asked not long ago, and has a claim to a share.
 * @nr_waiters:	Its requests that wait to be admitted, wherever.
 * @waiters:	Those of them that are set aside, in order.
 * @node:	In the list of shares with such requests.
 */
struct throttle_share {
	struct device *dev;
	atomic_long_t held;
	long goal;
	unsigned long asked;
	bool active;
	unsigned int nr_waiters;
	struct list_head waiters;
	struct list_head node;
} ____cacheline_aligned_in_smp;

/* So many devices can be told apart at a time. */
#define THROTTLE_SHARES	64

/**
 * struct swiotlb_throttle - the throttle of one swiotlb allocator
 * @high:	Nobody who can wait is admitted above it, but for one request.
 *		SWIOTLB_THROTTLE_OFF when throttling is off.
 * @low:	Below it every waiter is let go.
 * @slack:	Upper bound of what the per-CPU parts of @used can add up to.
 * @batch:	A per-CPU part of @used is folded when it reaches this.
 * @waiting:	Number of waiters in @wait and @retry. Written under the lock
 *		of @wait, read without it by every unmap.
 * @far:	What @used may be, by its central count, for an admission that nobody
 *		has to decide about; %THROTTLE_CLOSED from when somebody waits
 *		until @high turns out to be far again.
 * @max_room:	As much of @room is left at a time.
 * @mem:	The allocator.
 * @node:	In the list of all throttles.
 * @used:	Slots taken, and slots promised to admitted requests.
 * @room:	Slots that can be taken without a look at @used near @high;
 *		below 0 when more were asked for, or taken unasked.
 * @freed:	Slots given back since boot, counted while somebody waits.
 * @goal:	The value of @freed from which the queue is looked at again.
 * @last_freed:	When slots were last given back while somebody waited, or
 *		when the first waiter came; in jiffies.
 * @wait:	Requests that wait to be admitted, in order. Its lock protects
 *		everything below, and the writes of the above but for @used,
 *		@room, @freed and @last_freed.
 * @set_aside:	Shares with requests that are set aside.
 * @seq:	Number of requests that joined.
 * @active:	Number of shares with a claim.
 * @expired:	When idle shares were last looked for, in jiffies.
 * @retry:	Admitted maps which found no room and wait for an unmap.
 * @nr_retry:	Number of entries in @retry.
 * @retry_seq:	Number of unmaps while there are any.
 * @drain:	The one of them for which the others are held back.
 * @drain_again: When that may happen again, in jiffies.
 * @grow_again:	When the pool may be made to grow again, in jiffies.
 * @serial_slots: Slots that the serialized request still holds; 0 when the
 *		serialized place is free.
 * @throttled:	Requests which had to wait.
 * @serialized:	Requests let through above @high.
 * @timed_out:	Waits given up because nothing was freed.
 * @capped:	Waits given up because they had lasted too long.
 * @wakeups:	How often a task that waits to be admitted was made to run, by the
 *		timer of growth, too.
 * @retried:	Maps which found no room although they were admitted.
 * @longest_wait: The longest wait of a request, in nanoseconds.
 * @shares:	What the devices hold. What is held is counted without the lock.
 */
struct swiotlb_throttle {
	long high;
	long low;
	long slack;
	s32 batch;
	unsigned int waiting;
	long far;
	long max_room;
	struct io_tlb_mem *mem;
	struct list_head node;

	struct percpu_counter used ____cacheline_aligned_in_smp;

	atomic_long_t room ____cacheline_aligned_in_smp;

	atomic_long_t freed ____cacheline_aligned_in_smp;
	long goal;
	unsigned long last_freed;

	wait_queue_head_t wait ____cacheline_aligned_in_smp;
	struct list_head set_aside;
	unsigned long seq;
	int active;
	unsigned long expired;
	struct list_head retry;
	unsigned int nr_retry;
	unsigned long retry_seq;
	struct dma_retry *drain;
	unsigned long drain_again;
	unsigned long grow_again;
	long serial_slots;
	unsigned long throttled;
	unsigned long serialized;
	unsigned long timed_out;
	unsigned long capped;
	unsigned long wakeups;
	unsigned long retried;
	s64 longest_wait;

	struct throttle_share shares[THROTTLE_SHARES];
};

#define SWIOTLB_THROTTLE_OFF	(LONG_MAX / 2)
#define THROTTLE_CLOSED		LONG_MIN

/**
 * struct swiotlb_throttle_params - the tunables, common to all pools
 * @high:	Percent of a pool's slots; 100 turns throttling off.
 * @low:	Percent of a pool's slots, at most @high.
 * @stall_ms:	A wait ends when no slot has been freed for so long.
 * @cap_ms:	No request waits longer to be admitted; at least @stall_ms.
 */
struct swiotlb_throttle_params {
	int high;
	int low;
	int stall_ms;
	int cap_ms;
};

/* A request may wait as long again for room, and block drivers give up at 30 s. */
#define SWIOTLB_THROTTLE_MAX_MS	10000

extern struct swiotlb_throttle_params swiotlb_throttle_params;
int swiotlb_throttle_set_params(const struct swiotlb_throttle_params *new);

DECLARE_STATIC_KEY_FALSE(swiotlb_throttle_key);

bool swiotlb_may_wait(struct device *dev);
int swiotlb_throttle_admit(struct device *dev, unsigned int slots,
			   unsigned long *attrs);
void swiotlb_throttle_unadmit(struct device *dev, unsigned int slots,
			      unsigned long attrs);
unsigned int __swiotlb_throttle_admit_sg(struct device *dev,
					 struct scatterlist *sgl, int nents,
					 unsigned long *attrs);
unsigned long __swiotlb_throttle_begin(struct device *dev, unsigned int slots,
				       unsigned long attrs);
bool __swiotlb_throttle_retry(struct device *dev, bool failed,
			      struct dma_retry *retry);
void swiotlb_throttle_uncharge(struct device *dev, unsigned int slots,
			       unsigned long attrs);
void __swiotlb_throttle_release(struct device *dev, unsigned int slots,
				unsigned char slot);
void swiotlb_throttle_freed(struct device *dev, unsigned int slots);
void swiotlb_throttle_resize(struct io_tlb_mem *mem);

static inline struct swiotlb_throttle *
swiotlb_throttle_of(struct io_tlb_mem *mem)
{
	if (static_branch_unlikely(&swiotlb_throttle_key))
		return mem->throttle;
	return NULL;
}

static inline void throttle_add(struct swiotlb_throttle *t, long slots)
{
	percpu_counter_add_batch(&t->used, slots, READ_ONCE(t->batch));
}

/* Returns whether somebody waits, who then has to be told. */
static inline bool throttle_sub(struct swiotlb_throttle *t, long slots)
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
 * The slots of a map that never waits. Near the threshold the others take from
 * what was left for them, and would take this once more: the central count,
 * which they look at too, may not show it yet.
 */
static inline void throttle_add_unasked(struct swiotlb_throttle *t, long slots)
{
	throttle_add(t, slots);
	if (unlikely(atomic_long_read(&t->room) > 0))
		atomic_long_sub(slots, &t->room);
}

#ifdef CONFIG_SWIOTLB_DYNAMIC
static inline bool swiotlb_throttle_can_grow(struct io_tlb_mem *mem)
{
	return mem->can_grow;
}

static inline void swiotlb_throttle_grow(struct io_tlb_mem *mem)
{
	schedule_work(&mem->dyn_alloc);
}
#else
static inline bool swiotlb_throttle_can_grow(struct io_tlb_mem *mem)
{
	return false;
}

static inline void swiotlb_throttle_grow(struct io_tlb_mem *mem)
{
}
#endif

/* Before the search: account for @size bytes, and wait for room if need be. */
static inline unsigned long
swiotlb_throttle_begin(struct device *dev, size_t size, unsigned long attrs)
{
	struct swiotlb_throttle *t = swiotlb_throttle_of(dev->dma_io_tlb_mem);
	unsigned int slots = DIV_ROUND_UP(size, IO_TLB_SIZE);

	if (!t)
		return 0;
	if (!(attrs & SWIOTLB_THROTTLE_ATTRS)) {
		throttle_add_unasked(t, slots);
		return 0;
	}
	return __swiotlb_throttle_begin(dev, slots, attrs);
}

/* Before a list is mapped; a request that is admitted already stays so. */
static inline unsigned int
swiotlb_throttle_admit_sg(struct device *dev, struct scatterlist *sgl,
			  int nents, unsigned long *attrs)
{
	if ((*attrs & SWIOTLB_THROTTLE_ATTRS) != DMA_ATTR_MAY_BLOCK)
		return 0;
	return __swiotlb_throttle_admit_sg(dev, sgl, nents, attrs);
}

/* After a search: is another one worth it? Sleeps until it may be. */
static inline bool swiotlb_throttle_retry(struct device *dev,
					  unsigned long attrs, bool failed,
					  struct dma_retry *retry)
{
	if (likely(!(attrs & DMA_ATTR_MAY_BLOCK)))
		return false;
	if (likely(!failed && !retry->queued))
		return false;
	return __swiotlb_throttle_retry(dev, failed, retry);
}

/* The map failed: what swiotlb_throttle_begin() took is given back. */
static inline void swiotlb_throttle_abort(struct device *dev, size_t size,
					  unsigned long attrs)
{
	if (swiotlb_throttle_of(dev->dma_io_tlb_mem) &&
	    !(attrs & __DMA_ATTR_ADMITTED))
		swiotlb_throttle_uncharge(dev, DIV_ROUND_UP(size, IO_TLB_SIZE),
					  attrs);
}

/*
 * What the first slot of a mapping remembers: it belongs to the serialized
 * request; its device holds it; it is unmapped to be mapped again, and stays
 * with its request.
 */
#define SWIOTLB_SLOT_SERIALIZED	BIT(0)
#define SWIOTLB_SLOT_COUNTED	BIT(1)
#define SWIOTLB_SLOT_UNDONE	BIT(2)

static inline unsigned char swiotlb_throttle_slot(unsigned long attrs)
{
	unsigned int shift = ilog2(__DMA_ATTR_SERIALIZED);

	BUILD_BUG_ON(SWIOTLB_SLOT_SERIALIZED << shift != __DMA_ATTR_SERIALIZED ||
		     SWIOTLB_SLOT_COUNTED << shift != __DMA_ATTR_COUNTED);
	return attrs >> shift & (SWIOTLB_SLOT_SERIALIZED | SWIOTLB_SLOT_COUNTED);
}

/* The slots are free again; @slot is what the first of them remembers. */
static inline void swiotlb_throttle_release(struct device *dev,
					    unsigned int slots,
					    unsigned char slot)
{
	struct swiotlb_throttle *t = swiotlb_throttle_of(dev->dma_io_tlb_mem);

	if (!t)
		return;
	if (unlikely(slot))
		__swiotlb_throttle_release(dev, slots, slot);
	else if (throttle_sub(t, slots))
		swiotlb_throttle_freed(dev, slots);
}

/*
 * A list is mapped piece by piece: only its first map holds nothing, and only
 * if the list as a whole is not being retried.
 */
static inline unsigned long
swiotlb_throttle_piece(unsigned long attrs, int piece,
		       struct dma_retry *retry)
{
	attrs = dma_retry_attrs(attrs, retry);
	return piece ? dma_later_attrs(attrs) : attrs;
}

/* After piece number @piece of a list; a first piece has waited by itself. */
static inline bool swiotlb_throttle_retry_list(struct device *dev,
					       unsigned long attrs, bool failed,
					       int piece,
					       struct dma_retry *retry)
{
	if (!piece && !retry->queued)
		failed = false;
	return swiotlb_throttle_retry(dev, attrs, failed, retry);
}

/* For the unmaps of a request that could not be mapped as a whole. */
static inline unsigned long swiotlb_throttle_undo(unsigned long attrs)
{
	if (attrs & __DMA_ATTR_ADMITTED)
		attrs |= DMA_ATTR_UNDO;
	return attrs;
}

#else /* CONFIG_SWIOTLB_THROTTLE */

/*
 * Macros, because gcc 12 takes even empty inline functions into account when it
 * decides what to inline, and swiotlb.o is to be the same as ever.
 */
#define swiotlb_throttle_begin(dev, size, attrs) \
	({ (void)(dev); (void)(size); (void)(attrs); 0UL; })
#define swiotlb_throttle_retry(dev, attrs, failed, retry) \
	({ (void)(dev); (void)(attrs); (void)(failed); (void)(retry); false; })
#define swiotlb_throttle_abort(dev, size, attrs) \
	({ (void)(dev); (void)(size); (void)(attrs); })
#define swiotlb_throttle_release(dev, slots, slot) \
	({ (void)(dev); (void)(slots); (void)(slot); })
#define swiotlb_throttle_undo(attrs)	(attrs)

static inline unsigned int
swiotlb_throttle_admit_sg(struct device *dev, struct scatterlist *sgl,
			  int nents, unsigned long *attrs)
{
	return 0;
}

static inline void swiotlb_throttle_unadmit(struct device *dev,
					    unsigned int slots,
					    unsigned long attrs)
{
}

static inline unsigned long
swiotlb_throttle_piece(unsigned long attrs, int piece,
		       struct dma_retry *retry)
{
	return attrs;
}

static inline bool swiotlb_throttle_retry_list(struct device *dev,
					       unsigned long attrs, bool failed,
					       int piece,
					       struct dma_retry *retry)
{
	return false;
}

static inline void swiotlb_throttle_resize(struct io_tlb_mem *mem)
{
}

#endif /* CONFIG_SWIOTLB_THROTTLE */

#if defined(CONFIG_SWIOTLB_THROTTLE) && defined(CONFIG_DEBUG_FS)
void swiotlb_throttle_create_debugfs(struct io_tlb_mem *mem);
#else
static inline void swiotlb_throttle_create_debugfs(struct io_tlb_mem *mem)
{
}
#endif

#if IS_ENABLED(CONFIG_SWIOTLB_THROTTLE_KUNIT_TEST)
struct io_tlb_mem *swiotlb_kunit_alloc(unsigned long nslabs,
				       unsigned int nareas);
void swiotlb_kunit_free(struct io_tlb_mem *mem);
void swiotlb_throttle_detach(struct io_tlb_mem *mem);
#endif

#endif /* _KERNEL_DMA_SWIOTLB_THROTTLE_H */
